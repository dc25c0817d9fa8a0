from __future__ import annotations

from memprof.allocator import CachingAllocator
from memprof.units import MiB

LEVELS = (
    "allocation", "segment", "active", "inactive_split",
    "allocated_bytes", "reserved_bytes", "active_bytes", "inactive_split_bytes", "requested_bytes",
)  # fmt: skip
COUNTS = ("num_alloc_retries", "num_ooms", "num_sync_all_streams", "num_device_alloc", "num_device_free")


def test_names_are_those_of_torch_cuda_memory_stats() -> None:
    # Source: torch 2.13 wheel: torch/cuda/memory.py memory_stats
    metrics = ("current", "peak", "allocated", "freed")
    names = {
        f"{level}.{pool}.{metric}"
        for level in LEVELS
        for pool in ("all", "large_pool", "small_pool")
        for metric in metrics
    }
    names |= {f"{name}.{metric}" for name in ("oversize_allocations", "oversize_segments") for metric in metrics}
    assert set(CachingAllocator().memory_stats()) == names | set(COUNTS)


def test_a_level_tells_what_came_and_went() -> None:
    allocator = CachingAllocator()
    for _ in range(3):
        allocator.free(allocator.malloc(700))
    kept = allocator.malloc(3 * MiB)
    stats = allocator.memory_stats()
    assert [stats[f"allocated_bytes.small_pool.{name}"] for name in ("current", "peak", "allocated", "freed")] == [
        0, 1024, 3072, 3072,
    ]  # fmt: skip
    assert stats["allocation.all.allocated"] == 4
    assert stats["allocated_bytes.all.current"] == kept.size
    assert stats["inactive_split_bytes.large_pool.current"] == 17 * MiB
    assert stats["segment.all.current"] == stats["num_device_alloc"] == 2


def test_peaks_can_be_reset() -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(30 * MiB)
    allocator.request_free(block)
    allocator.malloc(30 * MiB)
    allocator.complete_free(block)
    assert allocator.memory_stats()["active_bytes.all.peak"] == 60 * MiB
    allocator.stats.reset_peaks()
    stats = allocator.memory_stats()
    assert stats["active_bytes.all.peak"] == stats["allocated_bytes.all.peak"] == 30 * MiB
    assert stats["reserved_bytes.all.peak"] == 60 * MiB
    allocator.empty_cache()
    allocator.stats.reset_peaks()
    assert allocator.memory_stats()["reserved_bytes.all.peak"] == 30 * MiB


def test_both_pools_peak_together_where_their_sum_does() -> None:
    allocator = CachingAllocator()
    small = allocator.malloc(1 * MiB)
    allocator.free(small)
    allocator.malloc(2 * MiB)
    stats = allocator.memory_stats()
    assert stats["allocated_bytes.all.peak"] == 2 * MiB
    assert stats["allocated_bytes.small_pool.peak"] + stats["allocated_bytes.large_pool.peak"] == 3 * MiB

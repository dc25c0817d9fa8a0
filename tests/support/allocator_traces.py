"""Traces worked by hand from the upstream functions that each names; what no recorded tape exercises.

Source: c10/cuda/CUDACachingAllocator.cpp, at the commit of ``memprof.allocator.rules.ALLOCATOR_URL``; settings from
c10/core/AllocatorConfig.cpp.
"""

from __future__ import annotations

from collections.abc import Callable

from memprof.allocator.blocks import Block
from memprof.allocator.native import CachingAllocator
from memprof.allocator.oom import OutOfMemoryError
from memprof.allocator.rules import Rules
from memprof.allocator.settings import Settings, parse_conf
from memprof.units import MiB

Trace = Callable[[Rules], None]


def _sizes(allocator: CachingAllocator) -> list[list[tuple[int, str]]]:
    """(bytes, one letter of the state) of the blocks of each segment."""
    return [[(block.size, "FAPU"[block.state]) for block in segment] for segment in allocator.segments()]


def _fails(allocator: CachingAllocator, num_bytes: int, stream: int = 0) -> OutOfMemoryError | None:
    try:
        allocator.malloc(num_bytes, stream)
    except OutOfMemoryError as error:
        return error
    return None


def rounding(rules: Rules) -> None:
    """``round_size``: at least 512, then multiples of 512. 1 + 512 + 513 bytes take 512 + 512 + 1024 = 2048."""
    allocator = CachingAllocator(rules=rules)
    assert [allocator.malloc(num_bytes).size for num_bytes in (1, 512, 513)] == [512, 512, 1024]
    stats = allocator.memory_stats()
    assert stats["allocated_bytes.small_pool.current"] == 2048
    assert stats["requested_bytes.all.current"] == 1026


def segment_sizes(rules: Rules) -> None:
    """``get_allocation_size``: up to 1 MiB 2 MiB; below 10 MiB 20 MiB; from there the next 2 MiB."""
    for num_bytes, reserved in (
        (1 * MiB, 2 * MiB),
        (1 * MiB + 1, 20 * MiB),
        (10 * MiB - 512, 20 * MiB),
        (10 * MiB, 10 * MiB),
        (10 * MiB + 1, 12 * MiB),
        (1001 * MiB, 1002 * MiB),
    ):
        allocator = CachingAllocator(rules=rules)
        allocator.malloc(num_bytes)
        assert allocator.reserved_bytes == reserved


def large_segments_of_another_size(rules: Rules) -> None:
    """``parseLargeSegmentSize``, 12: below 10 MiB a segment is 12 MiB, above nothing changes."""
    allocator = CachingAllocator(parse_conf("large_segment_size_mb:12"), rules=rules)
    allocator.malloc(2 * MiB)
    assert allocator.reserved_bytes == 12 * MiB
    allocator.malloc(30 * MiB)
    assert allocator.reserved_bytes == 42 * MiB


def small_rests_are_split_off(rules: Rules) -> None:
    """``should_split``: in the small pool a rest of 512 is enough. 1 MiB, then 1 MiB - 512 leave 512 of 2 MiB."""
    allocator = CachingAllocator(rules=rules)
    allocator.malloc(1 * MiB)
    allocator.malloc(1 * MiB - 512)
    assert _sizes(allocator) == [[(1 * MiB, "A"), (1 * MiB - 512, "A"), (512, "F")]]


def large_rests_are_split_off_above_1_mib(rules: Rules) -> None:
    """``should_split``: a large rest must be more than 1 MiB. 19 of 20 MiB are taken whole, 512 less not."""
    whole = CachingAllocator(rules=rules)
    whole.malloc(19 * MiB)
    assert whole.allocated_bytes == 20 * MiB
    assert whole.memory_stats()["requested_bytes.all.current"] == 19 * MiB
    cut = CachingAllocator(rules=rules)
    cut.malloc(19 * MiB - 512)
    assert _sizes(cut) == [[(19 * MiB - 512, "A"), (1 * MiB + 512, "F")]]
    assert cut.memory_stats()["inactive_split_bytes.large_pool.current"] == 1 * MiB + 512


def best_fit(rules: Rules) -> None:
    """``get_free_block`` takes ``lower_bound`` by size: 12 MiB go into the free 14, not the free 30 or 22."""
    allocator = CachingAllocator(rules=rules)
    blocks = [allocator.malloc(size * MiB) for size in (30, 14, 22)]
    for block in blocks:
        allocator.free(block)
    chosen = allocator.malloc(12 * MiB)
    assert chosen.address == blocks[1].address
    assert allocator.reserved_bytes == 66 * MiB


def merging(rules: Rules) -> None:
    """``free_block`` merges with free neighbours on both sides; the third free makes 2 MiB one block again.

    ``inactive_split_bytes`` before it: 512 KiB, and 128 with the rest of 1152; after it nothing is split.
    """
    allocator = CachingAllocator(rules=rules)
    left, middle, right = (allocator.malloc(size) for size in (512 << 10, 256 << 10, 128 << 10))
    allocator.free(left)
    allocator.free(right)
    assert _sizes(allocator) == [[(512 << 10, "F"), (256 << 10, "A"), (1280 << 10, "F")]]
    stats = allocator.memory_stats()
    assert stats["inactive_split.all.current"] == 2
    assert stats["inactive_split_bytes.all.current"] == 1792 << 10
    allocator.free(middle)
    assert _sizes(allocator) == [[(2 * MiB, "F")]]
    assert allocator.memory_stats()["inactive_split_bytes.all.current"] == 0


def streams_do_not_share(rules: Rules) -> None:
    """``get_free_block`` gives a block only to the stream that made it."""
    allocator = CachingAllocator(rules=rules)
    allocator.free(allocator.malloc(30 * MiB, stream=1))
    allocator.malloc(30 * MiB, stream=2)
    assert allocator.reserved_bytes == 60 * MiB
    allocator.malloc(30 * MiB, stream=1)
    assert allocator.reserved_bytes == 60 * MiB


def blocks_used_on_other_streams_wait(rules: Rules) -> None:
    """``recordStream`` and ``insert_events``: freed, but active until each stream is done; its neighbour cannot merge.

    30 MiB are pending, so a second 30 MiB need a segment: allocated peaks at 30, active at 60.
    """
    allocator = CachingAllocator(rules=rules)
    block = allocator.malloc(30 * MiB)
    allocator.record_stream(block, 0)  # its own: ignored
    allocator.record_stream(block, 7)
    allocator.record_stream(block, 8)
    allocator.free(block)
    stats = allocator.memory_stats()
    assert (stats["allocated_bytes.all.current"], stats["active_bytes.all.current"]) == (0, 30 * MiB)
    assert stats["requested_bytes.all.current"] == 30 * MiB
    allocator.malloc(30 * MiB)
    allocator.complete_free(block)
    assert allocator.active_bytes == 60 * MiB  # stream 8 still uses it
    allocator.complete_free(block)
    assert allocator.active_bytes == 30 * MiB
    stats = allocator.memory_stats()
    assert (stats["allocated_bytes.all.peak"], stats["active_bytes.all.peak"]) == (30 * MiB, 60 * MiB)
    assert stats["active.large_pool.peak"] == 2
    allocator.malloc(30 * MiB)
    assert allocator.reserved_bytes == 60 * MiB


def power_of_two_divisions(rules: Rules) -> None:
    """``roundup_power2_next_division``: 4 parts of [4096, 8192) are 1024, so 4200 takes 5120 (else 4608); 2048 is below
    512 * 4 and takes 2048; a power of two stays. 33 MiB: parts of 8 MiB, so 40 MiB.
    """
    allocator = CachingAllocator(parse_conf("roundup_power2_divisions:4"), rules=rules)
    sizes = [allocator.malloc(num_bytes).size for num_bytes in (4200, 2048, 1537, 8192, 33 * MiB)]
    assert sizes == [5120, 2048, 2048, 8192, 40 * MiB]


def power_of_two_divisions_by_size(rules: Rules) -> None:
    """``roundup_power2_divisions(size)``: [16:0,32:2,>:8]: below 32 MiB none; [32, 64) halves: 33 -> 48; [64, 128)
    eighths of 64: 66 -> 72.
    """
    allocator = CachingAllocator(parse_conf("roundup_power2_divisions:[16:0,32:2,>:8]"), rules=rules)
    sizes = [allocator.malloc(size * MiB).size // MiB for size in (17, 33, 66)]
    assert sizes == [18, 48, 72]  # 17 takes a whole segment of 18: the rest of 1 MiB is not split off


def oversize_blocks_are_kept_whole(rules: Rules) -> None:
    """``get_free_block`` under max_split_size_mb:128: the free 200 MiB are too large for 100; a request of 128 or more
    takes a block that is less than 20 MiB larger: 182 takes the 200 whole, 180 does not (200 >= 180 + 20).
    """
    allocator = CachingAllocator(parse_conf("max_split_size_mb:128"), rules=rules)
    allocator.free(allocator.malloc(200 * MiB))
    allocator.malloc(100 * MiB)
    assert allocator.reserved_bytes == 300 * MiB
    allocator.malloc(180 * MiB)
    assert allocator.reserved_bytes == 480 * MiB
    assert allocator.malloc(182 * MiB).size == 200 * MiB
    assert allocator.reserved_bytes == 480 * MiB
    stats = allocator.memory_stats()
    assert stats["oversize_segments.current"] == 2
    assert stats["oversize_allocations.allocated"] == 3


def oversize_blocks_may_be_allowed_more_slack(rules: Rules) -> None:
    """``max_non_split_rounding_mb:40``: now 180 MiB take the free 200 (200 < 180 + 40)."""
    allocator = CachingAllocator(parse_conf("max_split_size_mb:128,max_non_split_rounding_mb:40"), rules=rules)
    allocator.free(allocator.malloc(200 * MiB))
    assert allocator.malloc(180 * MiB).size == 200 * MiB


def the_smallest_oversize_block_goes_first(rules: Rules) -> None:
    """``release_available_cached_blocks``: 500 of 512 MiB are reserved, 300 + 200, both free. 250 fit neither: 300 is
    not within 20, and the device has 12. The 300 alone is released and the 200 stays.
    """
    allocator = CachingAllocator(parse_conf("max_split_size_mb:128"), device_bytes=512 * MiB, rules=rules)
    for block in [allocator.malloc(size * MiB) for size in (300, 200)]:
        allocator.free(block)
    allocator.malloc(250 * MiB)
    assert allocator.reserved_bytes == 450 * MiB
    assert allocator.memory_stats()["num_alloc_retries"] == 0


def several_oversize_blocks_go_from_the_largest_on(rules: Rules) -> None:
    """``release_available_cached_blocks``: none of 130, 140, 150 MiB holds 200; 150 and 140 go, the 130 stays."""
    allocator = CachingAllocator(parse_conf("max_split_size_mb:128"), device_bytes=432 * MiB, rules=rules)
    for block in [allocator.malloc(size * MiB) for size in (130, 140, 150)]:
        allocator.free(block)
    allocator.malloc(200 * MiB)
    assert _sizes(allocator) == [[(200 * MiB, "A")], [(130 * MiB, "F")]]
    assert allocator.memory_stats()["num_alloc_retries"] == 0


def oversize_blocks_of_split_segments_stay(rules: Rules) -> None:
    """A segment from before max_split_size_mb:128 was set: its free 200 MiB lie beside 50 in use and cannot go."""
    allocator = CachingAllocator(parse_conf("max_split_size_mb:128"), device_bytes=300 * MiB, rules=rules)
    allocator.restore_segment([(50 * MiB, True), (200 * MiB, False)], is_small=False)
    assert _fails(allocator, 150 * MiB) is not None
    assert allocator.reserved_bytes == 250 * MiB


def a_full_device_is_tried_again_without_the_cache(rules: Rules) -> None:
    """``release_cached_blocks``, then ``alloc_block(isRetry)``: of 100 MiB 60 are cached whole and 20 partly in use;
    30 do not fit the 20 that are left. All that is whole goes, also pending blocks, the split segment stays.
    """
    allocator = CachingAllocator(device_bytes=100 * MiB, rules=rules)
    kept = allocator.malloc(5 * MiB)
    pending = allocator.malloc(40 * MiB)
    cached = allocator.malloc(20 * MiB)
    allocator.request_free(pending)
    allocator.free(cached)
    allocator.malloc(70 * MiB)
    assert allocator.reserved_bytes == 90 * MiB
    assert kept.size == 5 * MiB
    stats = allocator.memory_stats()
    assert (stats["num_alloc_retries"], stats["num_sync_all_streams"], stats["num_device_free"]) == (1, 1, 2)
    assert stats["reserved_bytes.all.peak"] == 90 * MiB
    allocator.complete_free(pending)  # too late: the retry has waited for it
    assert allocator.allocated_bytes == 75 * MiB


def out_of_memory(rules: Rules) -> None:
    """``malloc``: 100 MiB with 10 held by others; 60 are in use, so 40 cannot come, and 30 can.

    Asked of the device: 40. With 12 of 20 cached beside 8 in use it is fragmentation that fails 20.
    """
    allocator = CachingAllocator(device_bytes=100 * MiB, other_bytes=10 * MiB, rules=rules)
    allocator.malloc(60 * MiB)
    error = _fails(allocator, 40 * MiB)
    assert error is not None
    assert (error.requested_bytes, error.segment_bytes, error.device_free_bytes) == (40 * MiB, 40 * MiB, 30 * MiB)
    assert error.reason == "capacity"
    allocator.malloc(8 * MiB)
    error = _fails(allocator, 20 * MiB)
    assert error is not None
    assert (error.reason, error.largest_free_bytes) == ("fragmentation", 12 * MiB)
    assert allocator.memory_stats()["num_ooms"] == 2
    allocator.malloc(10 * MiB)
    assert allocator.reserved_bytes == 80 * MiB


def a_process_keeps_to_its_share(rules: Rules) -> None:
    """``alloc_block`` under per_process_memory_fraction:0.5: of 100 MiB 50 are allowed, reserved bytes counting."""
    allocator = CachingAllocator(Settings(memory_fraction=0.5), device_bytes=100 * MiB, rules=rules)
    allocator.malloc(30 * MiB)
    error = _fails(allocator, 22 * MiB)
    assert error is not None
    assert error.device_free_bytes == 20 * MiB
    allocator.malloc(20 * MiB)
    assert allocator.reserved_bytes == 50 * MiB


def garbage_goes_by_age(rules: Rules) -> None:
    """``garbage_collect_cached_blocks``: 200 MiB allowed, 120 before anything is collected.

    Each request of the large pool is a search; a block's age is the searches since it was freed. 40, 30 and 20 are
    searches 1 to 3; 40 and 30 are freed then. Search 4, for 32, takes the 40 and splits it. The 20 is freed. Search 5,
    for 42, finds 90 reserved and collects nothing. Search 6, for 60, finds 132, 12 too many: 30 and 20 are 3 and 2 old,
    2.5 on average, so the 30 goes, which is enough, and the 20 stays; the free 8 are part of a split segment.
    """
    settings = parse_conf("garbage_collection_threshold:0.6,per_process_memory_fraction:1.0")
    _collecting(CachingAllocator(settings, device_bytes=200 * MiB, rules=rules), num_freed=1, reserved=162 * MiB)


def garbage_goes_until_there_is_enough(rules: Rules) -> None:
    """The same with 100 before collecting: 32 too many. The 30 goes, then the 20, alone and so of average age."""
    settings = parse_conf("garbage_collection_threshold:0.5,per_process_memory_fraction:1.0")
    _collecting(CachingAllocator(settings, device_bytes=200 * MiB, rules=rules), num_freed=2, reserved=142 * MiB)


def garbage_is_only_collected_in_a_share(rules: Rules) -> None:
    """``malloc``: no fraction was set, so nothing is collected, whatever the threshold."""
    settings = parse_conf("garbage_collection_threshold:0.5")
    _collecting(CachingAllocator(settings, device_bytes=200 * MiB, rules=rules), num_freed=0, reserved=192 * MiB)


def _collecting(allocator: CachingAllocator, num_freed: int, reserved: int) -> None:
    oldest, old, young = (allocator.malloc(size * MiB) for size in (40, 30, 20))
    allocator.free(oldest)
    allocator.free(old)
    allocator.malloc(32 * MiB)
    allocator.free(young)
    allocator.malloc(42 * MiB)
    allocator.malloc(60 * MiB)
    assert allocator.reserved_bytes == reserved
    stats = allocator.memory_stats()
    assert (stats["num_device_free"], stats["num_alloc_retries"]) == (num_freed, 0)


def emptied_caches_keep_what_is_split(rules: Rules) -> None:
    """``release_blocks``: only segments that are one free block go."""
    allocator = CachingAllocator(rules=rules)
    small, large = allocator.malloc(512), allocator.malloc(30 * MiB)
    allocator.malloc(2 * MiB)
    allocator.free(large)
    allocator.free(small)
    assert allocator.releasable() == [2 * MiB, 30 * MiB]
    allocator.empty_cache()
    assert _sizes(allocator) == [[(2 * MiB, "A"), (18 * MiB, "F")]]
    assert allocator.memory_stats()["segment.all.current"] == 1


def captured_graphs_have_pools_of_their_own(rules: Rules) -> None:
    """``get_pool``, ``releasePool``, ``release_cached_blocks``: a capture takes nothing from the cache and gives
    nothing to it; its free segments can go once its graph is gone.
    """
    allocator = CachingAllocator(rules=rules)
    allocator.free(allocator.malloc(30 * MiB))
    allocator.begin_capture("graph", streams=[1])
    assert allocator.reserved_bytes == 30 * MiB
    allocator.malloc(30 * MiB, stream=0)  # another stream is not captured
    assert allocator.reserved_bytes == 30 * MiB
    inside = allocator.malloc(30 * MiB, stream=1)
    allocator.free(inside)
    allocator.free(allocator.malloc(30 * MiB, stream=1))
    assert allocator.reserved_bytes == 60 * MiB
    allocator.end_capture("graph")
    outside = allocator.malloc(40 * MiB, stream=1)
    assert allocator.reserved_bytes == 100 * MiB
    allocator.empty_cache()
    assert allocator.reserved_bytes == 100 * MiB
    allocator.release_pool("graph")
    allocator.empty_cache()
    assert allocator.reserved_bytes == 70 * MiB
    allocator.free(outside)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 30 * MiB


def a_pool_lives_as_long_as_its_last_graph(rules: Rules) -> None:
    """``beginAllocateToPool``: a second capture shares the pool, and what the first left free in it."""
    allocator = CachingAllocator(rules=rules)
    for _ in range(2):
        allocator.begin_capture("shared")
        allocator.free(allocator.malloc(30 * MiB))
        allocator.end_capture("shared")
    assert allocator.reserved_bytes == 30 * MiB
    for reserved in (30 * MiB, 0):
        allocator.release_pool("shared")
        allocator.empty_cache()
        assert allocator.reserved_bytes == reserved


def captures_put_off_events_and_retries(rules: Rules) -> None:
    """``malloc`` while capturing: no ``process_events`` and no ``release_cached_blocks``. 40 are pending and 40 cached
    of 100; 30 fail during the capture, and come after it.
    """
    allocator = CachingAllocator(device_bytes=100 * MiB, rules=rules)
    pending, cached = allocator.malloc(40 * MiB), allocator.malloc(40 * MiB, stream=1)
    allocator.record_stream(pending, 1)
    allocator.free(pending)
    allocator.free(cached)
    allocator.begin_capture("graph", streams=[2])
    allocator.complete_free(pending)
    assert allocator.active_bytes == 40 * MiB
    assert _fails(allocator, 30 * MiB, stream=2) is not None
    assert allocator.reserved_bytes == 80 * MiB
    allocator.end_capture("graph")
    assert allocator.malloc(40 * MiB).address == pending.address
    assert allocator.reserved_bytes == 80 * MiB


def expandable_segments_grow_by_pages(rules: Rules) -> None:
    """``map_block``: pages of 2 MiB in the small pool and 20 in the large; a free end counts towards the next request.

    30 MiB map 40; 15 need 5 more than the free 10 and map 20; 1 MiB maps 2.
    """
    events: list[tuple[str, int]] = []
    settings = Settings(expandable_segments=True)
    allocator = CachingAllocator(
        settings, rules=rules, on_segment=lambda event: events.append((event.action, event.num_bytes // MiB))
    )
    first, second = allocator.malloc(30 * MiB), allocator.malloc(15 * MiB)
    allocator.malloc(1 * MiB)
    assert events == [("segment_map", 40), ("segment_map", 20), ("segment_map", 2)]
    assert second.address == first.address + 30 * MiB
    stats = allocator.memory_stats()
    assert (stats["segment.all.current"], stats["inactive_split_bytes.all.current"]) == (0, 0)
    assert stats["num_device_alloc"] == 3


def expandable_segments_split_to_512(rules: Rules) -> None:
    """``should_split`` with expandable segments: 512 are enough in the large pool too. 20 MiB - 512 leave 512."""
    allocator = CachingAllocator(Settings(expandable_segments=True), rules=rules)
    allocator.malloc(20 * MiB - 512)
    assert _sizes(allocator) == [[(20 * MiB - 512, "A"), (512, "F")]]


def expandable_pages_are_unmapped(rules: Rules) -> None:
    """``unmap_block``: only whole pages inside a free block go. Freed [5, 105) of 120 MiB: pages [20, 100), 80 MiB;
    what is mapped next fills the lowest gap (``find_expandable_block``): 60 MiB lie at 5, over 15 free and 60 mapped
    again.
    """
    events: list[tuple[str, int]] = []
    allocator = CachingAllocator(
        Settings(expandable_segments=True),
        rules=rules,
        on_segment=lambda event: events.append((event.action, event.num_bytes // MiB)),
    )
    first, middle, last = (allocator.malloc(size * MiB) for size in (5, 100, 15))
    allocator.free(middle)
    assert allocator.releasable() == [80 * MiB]
    allocator.empty_cache()
    assert _sizes(allocator) == [[(5 * MiB, "A"), (15 * MiB, "F")], [(5 * MiB, "F"), (15 * MiB, "A")]]
    again = allocator.malloc(60 * MiB)
    assert again.address == first.address + 5 * MiB
    assert events == [("segment_map", 20), ("segment_map", 100), ("segment_unmap", 80), ("segment_map", 60)]
    for block in (first, last, again):
        allocator.free(block)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 0
    assert _sizes(allocator) == []


def the_growing_end_is_used_last(rules: Rules) -> None:
    """``get_free_block``, ``expandable_size``: the free end of 30 MiB could grow without bound, so 25 MiB take the free
    35 in the middle, the larger block.
    """
    allocator = CachingAllocator(Settings(expandable_segments=True), rules=rules)
    _, middle, _, end = (allocator.malloc(size * MiB) for size in (5, 35, 10, 30))
    allocator.free(middle)
    allocator.free(end)
    assert allocator.malloc(25 * MiB).address == middle.address


def expandable_segments_of_a_full_device(rules: Rules) -> None:
    """``try_allocate_expandable_block`` returns nothing when a page cannot be made; then free pages of another stream
    are unmapped and it is tried again. Of 100 MiB, 60 are free on stream 1: 80 on stream 0 fit only after that.
    """
    allocator = CachingAllocator(Settings(expandable_segments=True), device_bytes=100 * MiB, rules=rules)
    allocator.free(allocator.malloc(60 * MiB, stream=1))
    allocator.malloc(80 * MiB)
    stats = allocator.memory_stats()
    assert (allocator.reserved_bytes, stats["num_alloc_retries"]) == (80 * MiB, 1)
    error = _fails(allocator, 30 * MiB)
    assert error is not None
    assert error.reason == "capacity"


def expandable_addresses_outlast_the_memory(rules: Rules) -> None:
    """``ExpandableSegment``: addresses for 9/8 of the device, 360 of 320 MiB. Two holes of 20 are unmapped; 40 fit
    neither, but the last 40 addresses.
    """
    allocator = CachingAllocator(Settings(expandable_segments=True), device_bytes=320 * MiB, rules=rules)
    blocks = [allocator.malloc(size * MiB) for size in (20, 20, 20, 260)]
    allocator.free(blocks[0])
    allocator.free(blocks[2])
    allocator.empty_cache()
    assert allocator.reserved_bytes == 280 * MiB
    assert allocator.malloc(40 * MiB).address == blocks[0].address + 320 * MiB


def initial_segments(rules: Rules) -> None:
    """A run that was under way: 12 MiB free between two blocks serve a request of 10, and 2 are split off."""
    allocator = CachingAllocator(rules=rules)
    left, hole, right = allocator.restore_segment([(4 * MiB, True), (12 * MiB, False), (4 * MiB, True)], is_small=False)
    assert allocator.memory_stats()["inactive_split_bytes.all.current"] == 12 * MiB
    assert allocator.malloc(10 * MiB).address == hole.address
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (18 * MiB, 20 * MiB)
    _free_all(allocator, left, right)
    assert _sizes(allocator) == [[(4 * MiB, "F"), (10 * MiB, "A"), (6 * MiB, "F")]]


def initial_expandable_segments(rules: Rules) -> None:
    """An expandable segment under way grows at its end: 10 free of 40 mapped serve 25 with a page more."""
    settings = Settings(expandable_segments=True)
    allocator = CachingAllocator(settings, rules=rules)
    _, end = allocator.restore_segment([(30 * MiB, True), (10 * MiB, False)], is_small=False, is_expandable=True)
    assert allocator.malloc(25 * MiB).address == end.address
    assert allocator.reserved_bytes == 60 * MiB


def _free_all(allocator: CachingAllocator, *blocks: Block) -> None:
    for block in blocks:
        allocator.free(block)


TRACES: tuple[Trace, ...] = (
    rounding, segment_sizes, large_segments_of_another_size, small_rests_are_split_off,
    large_rests_are_split_off_above_1_mib, best_fit, merging, streams_do_not_share, blocks_used_on_other_streams_wait,
    power_of_two_divisions, power_of_two_divisions_by_size, oversize_blocks_are_kept_whole,
    oversize_blocks_may_be_allowed_more_slack, the_smallest_oversize_block_goes_first,
    several_oversize_blocks_go_from_the_largest_on, oversize_blocks_of_split_segments_stay,
    a_full_device_is_tried_again_without_the_cache, out_of_memory,
    a_process_keeps_to_its_share, garbage_goes_by_age, garbage_goes_until_there_is_enough,
    garbage_is_only_collected_in_a_share, emptied_caches_keep_what_is_split,
    captured_graphs_have_pools_of_their_own, a_pool_lives_as_long_as_its_last_graph,
    captures_put_off_events_and_retries, expandable_segments_grow_by_pages, expandable_segments_split_to_512,
    expandable_pages_are_unmapped, the_growing_end_is_used_last, expandable_segments_of_a_full_device,
    expandable_addresses_outlast_the_memory, initial_segments, initial_expandable_segments,
)  # fmt: skip

"""What ``torch.cuda.memory_stats`` reports, kept so that each allocation and free adds as few numbers as it can."""

from __future__ import annotations

from collections.abc import Iterator

_Row = tuple[str, int, int, int]


class Stat:
    """A level: its value, its highest value, and all that was ever added to it."""

    __slots__ = ("current", "ever", "peak")

    def __init__(self) -> None:
        self.current = 0
        self.peak = 0
        self.ever = 0

    def add(self, amount: int) -> None:
        """Raise or, with a negative amount, lower the level."""
        self.current += amount
        if amount > 0:
            self.ever += amount
            if self.current > self.peak:
                self.peak = self.current


class Peaks:
    """The highest levels of blocks that were handed out."""

    __slots__ = ("active_blocks", "active_bytes", "blocks", "bytes", "requested", "split_blocks", "split_bytes")

    def __init__(self) -> None:
        self.blocks = self.bytes = self.requested = 0
        self.active_blocks = self.active_bytes = 0
        self.split_blocks = self.split_bytes = 0


class PoolStats:
    """The levels of the small pools, or of the large ones.

    Levels of both together are sums, so only their peaks are kept; they are shared by the two. While nothing is
    pending ``active`` is ``allocated``, so only what is pending and the peaks reached meanwhile are kept for it.
    """

    __slots__ = (
        "blocks", "bytes", "ever_blocks", "ever_bytes", "ever_requested", "ever_split_blocks", "ever_split_bytes",
        "other", "peaks", "pending_blocks", "pending_bytes", "requested", "split_blocks", "split_bytes", "together",
    )  # fmt: skip

    other: PoolStats

    def __init__(self, together: Peaks) -> None:
        self.blocks = self.bytes = self.requested = 0
        self.ever_blocks = self.ever_bytes = self.ever_requested = 0
        self.pending_blocks = self.pending_bytes = 0
        self.split_blocks = self.split_bytes = 0
        self.ever_split_blocks = self.ever_split_bytes = 0
        self.peaks = Peaks()
        self.together = together

    def allocated(self, size: int, requested: int) -> None:
        """A block of ``size`` bytes was handed out."""
        self.ever_blocks += 1
        self.ever_bytes += size
        self.ever_requested += requested
        self.blocks = blocks = self.blocks + 1
        self.bytes = size = self.bytes + size
        self.requested = requested = self.requested + requested
        peaks = self.peaks
        if blocks > peaks.blocks:
            peaks.blocks = blocks
        if size > peaks.bytes:
            peaks.bytes = size
        if requested > peaks.requested:
            peaks.requested = requested
        other, peaks = self.other, self.together
        if blocks + other.blocks > peaks.blocks:
            peaks.blocks = blocks + other.blocks
        if size + other.bytes > peaks.bytes:
            peaks.bytes = size + other.bytes
        if requested + other.requested > peaks.requested:
            peaks.requested = requested + other.requested
        if self.pending_blocks or other.pending_blocks:
            self.note_active()

    def freed(self, size: int, requested: int) -> None:
        """The program gave a block back, and no stream uses it any more."""
        self.blocks -= 1
        self.bytes -= size
        self.requested -= requested

    def pended(self, size: int) -> None:
        """The program gave a block back that another stream may still use."""
        self.blocks -= 1
        self.bytes -= size
        self.pending_blocks += 1
        self.pending_bytes += size

    def completed(self, size: int, requested: int) -> None:
        """The last stream is done with a block that was given back before."""
        self.pending_blocks -= 1
        self.pending_bytes -= size
        self.requested -= requested

    def split_changed(self, num_blocks: int, num_bytes: int) -> None:
        """Free blocks that are part of a split segment, which cannot be given back, became more or fewer."""
        self.split_blocks = blocks = self.split_blocks + num_blocks
        self.split_bytes = size = self.split_bytes + num_bytes
        if num_blocks > 0:
            self.ever_split_blocks += num_blocks
            if blocks > self.peaks.split_blocks:
                self.peaks.split_blocks = blocks
            blocks += self.other.split_blocks
            if blocks > self.together.split_blocks:
                self.together.split_blocks = blocks
        if num_bytes > 0:
            self.ever_split_bytes += num_bytes
            if size > self.peaks.split_bytes:
                self.peaks.split_bytes = size
            size += self.other.split_bytes
            if size > self.together.split_bytes:
                self.together.split_bytes = size

    def note_active(self) -> None:
        """Raise the peaks of active blocks to what they are now."""
        blocks, size = self.blocks + self.pending_blocks, self.bytes + self.pending_bytes
        other = self.other
        for peaks, all_blocks, all_size in (
            (self.peaks, blocks, size),
            (
                self.together,
                blocks + other.blocks + other.pending_blocks,
                size + other.bytes + other.pending_bytes,
            ),
        ):
            peaks.active_blocks = max(peaks.active_blocks, all_blocks)
            peaks.active_bytes = max(peaks.active_bytes, all_size)


class DeviceStats:
    """All that an allocator counts."""

    __slots__ = (
        "large", "num_alloc_retries", "num_device_alloc", "num_device_free", "num_ooms", "num_sync_all_streams",
        "oversize_allocations", "oversize_segments", "reserved_bytes", "segment", "small", "together",
    )  # fmt: skip

    def __init__(self) -> None:
        self.together = Peaks()
        self.small, self.large = PoolStats(self.together), PoolStats(self.together)
        self.small.other, self.large.other = self.large, self.small
        # By pool: all, small, large.
        self.segment = (Stat(), Stat(), Stat())
        self.reserved_bytes = (Stat(), Stat(), Stat())
        self.oversize_allocations = Stat()
        self.oversize_segments = Stat()
        self.num_alloc_retries = self.num_ooms = self.num_sync_all_streams = 0
        self.num_device_alloc = self.num_device_free = 0

    def reset_peaks(self) -> None:
        """Let each peak be the level of now, as ``torch.cuda.reset_peak_memory_stats`` does."""
        small, large = self.small, self.large
        for peaks, pools in ((small.peaks, (small,)), (large.peaks, (large,)), (self.together, (small, large))):
            peaks.blocks = sum(pool.blocks for pool in pools)
            peaks.bytes = sum(pool.bytes for pool in pools)
            peaks.requested = sum(pool.requested for pool in pools)
            peaks.active_blocks = peaks.blocks + sum(pool.pending_blocks for pool in pools)
            peaks.active_bytes = peaks.bytes + sum(pool.pending_bytes for pool in pools)
            peaks.split_blocks = sum(pool.split_blocks for pool in pools)
            peaks.split_bytes = sum(pool.split_bytes for pool in pools)
        for stat in (*self.segment, *self.reserved_bytes, self.oversize_allocations, self.oversize_segments):
            stat.peak = stat.current

    def flat(self) -> dict[str, int]:
        """The dictionary of ``torch.cuda.memory_stats``."""
        small, large = self.small, self.large
        rows: list[_Row] = []
        for index, (pool, peaks, parts) in enumerate(
            (
                ("all", self.together, (small, large)),
                ("small_pool", small.peaks, (small,)),
                ("large_pool", large.peaks, (large,)),
            )
        ):
            levels = [sum(column) for column in zip(*(_levels(part) for part in parts), strict=True)]
            rows += _pool_rows(pool, peaks, levels)
            rows += _stat_rows(f"segment.{pool}", self.segment[index])
            rows += _stat_rows(f"reserved_bytes.{pool}", self.reserved_bytes[index])
        rows += _stat_rows("oversize_allocations", self.oversize_allocations)
        rows += _stat_rows("oversize_segments", self.oversize_segments)
        stats = {
            name: getattr(self, name)
            for name in ("num_alloc_retries", "num_device_alloc", "num_device_free", "num_ooms", "num_sync_all_streams")
        }
        for name, current, peak, ever in rows:
            stats |= {
                f"{name}.current": current,
                f"{name}.peak": peak,
                f"{name}.allocated": ever,
                f"{name}.freed": ever - current,
            }
        return stats


def _levels(pool: PoolStats) -> tuple[int, ...]:
    return (
        pool.blocks, pool.bytes, pool.requested, pool.ever_blocks, pool.ever_bytes, pool.ever_requested,
        pool.blocks + pool.pending_blocks, pool.bytes + pool.pending_bytes,
        pool.split_blocks, pool.split_bytes, pool.ever_split_blocks, pool.ever_split_bytes,
    )  # fmt: skip


def _pool_rows(pool: str, peaks: Peaks, levels: list[int]) -> Iterator[_Row]:
    (blocks, size, requested, ever_blocks, ever_bytes, ever_requested, active, active_bytes,
     split, split_bytes, ever_split, ever_split_bytes) = levels  # fmt: skip
    yield f"allocation.{pool}", blocks, peaks.blocks, ever_blocks
    yield f"allocated_bytes.{pool}", size, peaks.bytes, ever_bytes
    yield f"requested_bytes.{pool}", requested, peaks.requested, ever_requested
    yield f"active.{pool}", active, max(peaks.active_blocks, peaks.blocks), ever_blocks
    yield f"active_bytes.{pool}", active_bytes, max(peaks.active_bytes, peaks.bytes), ever_bytes
    yield f"inactive_split.{pool}", split, peaks.split_blocks, ever_split
    yield f"inactive_split_bytes.{pool}", split_bytes, peaks.split_bytes, ever_split_bytes


def _stat_rows(name: str, stat: Stat) -> Iterator[_Row]:
    yield name, stat.current, stat.peak, stat.ever

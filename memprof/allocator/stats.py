"""What ``torch.cuda.memory_stats`` reports, kept so that each allocation and free adds as few numbers as it can."""

from __future__ import annotations

from collections.abc import Iterator


class Stat:
    """A level: its value, its highest value, and all that was ever added to it."""

    __slots__ = ("current", "peak", "allocated")

    def __init__(self) -> None:
        self.current = 0
        self.peak = 0
        self.allocated = 0

    def add(self, amount: int) -> None:
        """Raise or, with a negative amount, lower the level."""
        self.current += amount
        if amount > 0:
            self.allocated += amount
            if self.current > self.peak:
                self.peak = self.current


class PoolStats:
    """The levels of the small pools, of the large pools, or of both together.

    A block that is not pending is allocated, so while nothing is pending ``active`` is ``allocated``: only what is
    pending and the peaks reached meanwhile are kept for it.
    """

    __slots__ = (
        "blocks", "bytes", "requested", "peak_blocks", "peak_bytes", "peak_requested",
        "ever_blocks", "ever_bytes", "ever_requested",
        "pending_blocks", "pending_bytes", "peak_active_blocks", "peak_active_bytes",
        "segment", "reserved_bytes", "inactive_split", "inactive_split_bytes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.blocks = self.bytes = self.requested = 0
        self.peak_blocks = self.peak_bytes = self.peak_requested = 0
        self.ever_blocks = self.ever_bytes = self.ever_requested = 0
        self.pending_blocks = self.pending_bytes = 0
        self.peak_active_blocks = self.peak_active_bytes = 0
        self.segment = Stat()
        self.reserved_bytes = Stat()
        self.inactive_split = Stat()
        self.inactive_split_bytes = Stat()

    def allocated(self, size: int, requested: int) -> None:
        """A block of ``size`` bytes was handed out."""
        self.ever_blocks += 1
        self.ever_bytes += size
        self.ever_requested += requested
        self.blocks += 1
        if self.blocks > self.peak_blocks:
            self.peak_blocks = self.blocks
        self.bytes += size
        if self.bytes > self.peak_bytes:
            self.peak_bytes = self.bytes
        self.requested += requested
        if self.requested > self.peak_requested:
            self.peak_requested = self.requested
        if self.pending_blocks:
            self.peak_active_blocks = max(self.peak_active_blocks, self.blocks + self.pending_blocks)
            self.peak_active_bytes = max(self.peak_active_bytes, self.bytes + self.pending_bytes)

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

    def reset_peaks(self) -> None:
        """Let each peak be the level of now, as ``torch.cuda.reset_peak_memory_stats`` does."""
        self.peak_blocks, self.peak_bytes, self.peak_requested = self.blocks, self.bytes, self.requested
        self.peak_active_blocks = self.blocks + self.pending_blocks
        self.peak_active_bytes = self.bytes + self.pending_bytes
        for stat in (self.segment, self.reserved_bytes, self.inactive_split, self.inactive_split_bytes):
            stat.peak = stat.current

    def items(self) -> Iterator[tuple[str, int, int, int]]:
        """(name, current, peak, ever added) of each level."""
        active, active_bytes = self.blocks + self.pending_blocks, self.bytes + self.pending_bytes
        yield "allocation", self.blocks, self.peak_blocks, self.ever_blocks
        yield "allocated_bytes", self.bytes, self.peak_bytes, self.ever_bytes
        yield "requested_bytes", self.requested, self.peak_requested, self.ever_requested
        yield "active", active, max(self.peak_active_blocks, self.peak_blocks), self.ever_blocks
        yield "active_bytes", active_bytes, max(self.peak_active_bytes, self.peak_bytes), self.ever_bytes
        for name in ("segment", "reserved_bytes", "inactive_split", "inactive_split_bytes"):
            stat: Stat = getattr(self, name)
            yield name, stat.current, stat.peak, stat.allocated


class Counts:
    """Events of the whole device, named as in ``torch.cuda.memory_stats``."""

    __slots__ = ("num_alloc_retries", "num_ooms", "num_sync_all_streams", "num_device_alloc", "num_device_free")

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)


def memory_stats(levels: dict[str, PoolStats], oversize: dict[str, Stat], counts: dict[str, int]) -> dict[str, int]:
    """The flat dictionary of ``torch.cuda.memory_stats``.

    Args:
        levels: by ``all``, ``small_pool`` and ``large_pool``.
        oversize: ``oversize_allocations`` and ``oversize_segments``.
        counts: plain counters by name.
    """
    flat: dict[str, int] = dict(counts)
    for pool, stats in levels.items():
        for name, current, peak, ever in stats.items():
            flat |= _flat(f"{name}.{pool}", current, peak, ever)
    for name, stat in oversize.items():
        flat |= _flat(name, stat.current, stat.peak, stat.allocated)
    return dict(sorted(flat.items()))


def _flat(name: str, current: int, peak: int, ever: int) -> dict[str, int]:
    return {
        f"{name}.current": current, f"{name}.peak": peak, f"{name}.allocated": ever, f"{name}.freed": ever - current,
    }  # fmt: skip

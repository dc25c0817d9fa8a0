"""Follow a Recording by its addresses: how many bytes each block really took, and what was free at any event.

Nothing is simulated. An address tells which free stretch a block was cut from; whether the rest of that stretch was
split off is the one rule that is applied, since it decides how many bytes PyTorch counts as allocated.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

from memprof.allocator.rules import RULES, round_size
from memprof.allocator.settings import Settings
from memprof.measure.recording import Recording
from memprof.model.tape import TapeSegment


class Region(NamedTuple):
    """What a stretch of memory belongs to; only neighbours of one region merge."""

    origin: int  # address of the segment; 0 for expandable ones, whose pages merge
    stream: int
    pool: str


class Placement:
    """Live blocks and free stretches by address, moved forward event by event.

    Attributes:
        size: bytes that each block takes, by block id, of all blocks met so far.
        allocated, reserved: bytes now, as ``torch.cuda.memory_stats`` counts them.
        num_misplaced: blocks that came to lie where nothing was free; their size is the rounded request.
    """

    def __init__(self, recording: Recording, settings: Settings) -> None:
        self.settings = settings
        self.size: dict[int, int] = {}
        self.allocated = self.reserved = self.num_misplaced = 0
        self._free: dict[int, tuple[int, Region]] = {}  # start: end, region
        self._starts: list[int] = []  # of all free stretches, sorted
        self._at: dict[int, tuple[int, Region]] = {}  # block: address, region
        self._counted: set[int] = set()  # blocks that count as allocated
        for segment, address in zip(recording.tape.initial_segments, recording.segment_addresses, strict=True):
            self._take_over(segment, address)

    def free_stretches(self) -> list[tuple[int, Region]]:
        """Bytes and region of each free stretch, largest first."""
        return sorted(((end - start, region) for start, (end, region) in self._free.items()), reverse=True)

    def step(self, action: str, block: int | None, size: int, stream: int, address: int) -> None:
        """Play one event."""
        if block is not None:
            self._step_block(action, block, size, address)
        elif action in ("segment_alloc", "segment_map"):
            pool = "small" if size == RULES.small_segment else "large"
            region = Region(address if action == "segment_alloc" else 0, stream, pool)
            self.reserved += size
            self._release(address, address + size, region)
        elif action in ("segment_free", "segment_unmap"):
            self.reserved -= size
            self._remove(address, address + size)

    def _step_block(self, action: str, block: int, size: int, address: int) -> None:
        if action == "alloc":
            self._alloc(block, size, address)
            return
        self._discount(block)
        if action == "free_completed" and block in self._at:
            address, region = self._at.pop(block)
            self._release(address, address + self.size[block], region)

    def _take_over(self, segment: TapeSegment, address: int) -> None:
        self.reserved += segment.size
        region = Region(0 if segment.is_expandable else address, segment.stream, segment.pool)
        for size, block in segment.blocks:
            if block is None:
                self._release(address, address + size, region)
            else:
                self.size[block] = size
                self._at[block] = (address, region)
                self._count(block)
            address += size

    def _alloc(self, block: int, requested: int, address: int) -> None:
        need = round_size(requested, self.settings.roundup_divisions)
        found = self._cut(address)
        if found is None:
            self.num_misplaced += 1
            self.size[block] = need
        else:
            end, region = found
            self.size[block] = need if self._splits(end - address - need, need, region) else end - address
            self._at[block] = (address, region)
            if address + self.size[block] < end:
                self._put(address + self.size[block], end, region)
        self._count(block)

    def _cut(self, address: int) -> tuple[int, Region] | None:
        """Take the rest of a free stretch from ``address`` on; the allocator itself only ever takes the whole."""
        found = self._touching(address, address + 1)
        if not found:
            return None
        end, region = self._take(found[0])
        if found[0] < address:
            self._put(found[0], address, region)
        return end, region

    def _splits(self, rest: int, need: int, region: Region) -> bool:
        """Source: ``should_split`` in c10/cuda/CUDACachingAllocator.cpp."""
        if region.pool == "small" or region.origin == 0:
            return rest >= RULES.small_remainder
        limit = self.settings.max_split_bytes
        return rest >= RULES.large_remainder and (limit is None or need < limit)

    def _count(self, block: int) -> None:
        self._counted.add(block)
        self.allocated += self.size[block]

    def _discount(self, block: int) -> None:
        if block in self._counted:
            self._counted.remove(block)
            self.allocated -= self.size[block]

    def _release(self, start: int, end: int, region: Region) -> None:
        """A stretch becomes free and merges with its free neighbours of the same region."""
        if start == end:
            return
        self._remove(start, end)  # nothing, unless the recording misses events
        if self._free.get(end, (0, None))[1] == region:
            end, _ = self._take(end)
        index = bisect_left(self._starts, start)
        if index and self._free[self._starts[index - 1]] == (start, region):
            start = self._starts[index - 1]
            self._take(start)
        self._put(start, end, region)

    def _remove(self, start: int, end: int) -> None:
        """A stretch goes back to the device; of an expandable segment's free stretch only some pages may."""
        for held in self._touching(start, end):
            held_end, region = self._take(held)
            if held < start:
                self._put(held, start, region)
            if end < held_end:
                self._put(end, held_end, region)

    def _touching(self, start: int, end: int) -> list[int]:
        """Starts of the free stretches that share an address with ``[start, end)``."""
        first = bisect_left(self._starts, start)
        if first and self._free[self._starts[first - 1]][0] > start:
            first -= 1
        return self._starts[first : bisect_left(self._starts, end)]

    def _put(self, start: int, end: int, region: Region) -> None:
        self._free[start] = (end, region)
        insort(self._starts, start)

    def _take(self, start: int) -> tuple[int, Region]:
        del self._starts[bisect_left(self._starts, start)]
        return self._free.pop(start)

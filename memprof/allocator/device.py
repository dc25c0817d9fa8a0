"""The device below the allocator: how much it has left, and the segments that were taken from it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from memprof.allocator.blocks import FREE, Block, FreeList
from memprof.allocator.rules import Rules, round_up
from memprof.allocator.settings import Settings
from memprof.allocator.stats import DeviceStats, Stat
from memprof.units import MiB, TiB

# Among equally large free blocks the one at the lowest address is taken, and no document says where the driver puts a
# segment. With small segments going up and large ones going down from high above, every recorded tape comes out right
# (tests/unit/test_allocator_tapes.py); going up, or down, with all of them does not.
_ADDRESS_UNIT = 2 * MiB
_UPWARD_UNTIL = 32 * MiB
_LOWEST_ADDRESS = 1 * TiB
_HIGHEST_ADDRESS = 4096 * TiB  # exact as a float too, so that viewers written in JavaScript can show addresses


class Addresses:
    """Ranges of addresses, none handed out twice, in the driver's order."""

    def __init__(self) -> None:
        self._next_small = _LOWEST_ADDRESS
        self._last_large = _HIGHEST_ADDRESS

    def take(self, num_bytes: int, gap: int = 0) -> int:
        """Where a segment of ``num_bytes`` begins, at least ``gap`` away from every other one."""
        num_bytes = round_up(num_bytes, _ADDRESS_UNIT)
        if num_bytes <= _UPWARD_UNTIL:
            self._next_small += num_bytes + gap
            return self._next_small - num_bytes
        self._last_large -= num_bytes + gap
        return self._last_large


class SegmentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The allocator took memory from the device or gave it back; the actions are a snapshot's."""

    action: str  # segment_alloc, segment_free, segment_map, segment_unmap
    address: int
    num_bytes: int
    stream: int


def placing_order(address: int, num_bytes: int) -> tuple[bool, int]:
    """Sorts segments whose addresses are known so that, restored in turn, they lie in that order again."""
    grows_up = num_bytes <= _UPWARD_UNTIL
    return not grows_up, address if grows_up else -address


class Device:
    """Memory as ``cudaMalloc`` and ``cuMemMap`` see it.

    Attributes:
        total_bytes: what ``cudaMemGetInfo`` calls total; None: never runs out.
        other_bytes: what others than this allocator hold of it.
        allowed_bytes: what the process allows itself (``set_per_process_memory_fraction``); None: all.
        addresses: where its segments begin.
        heads: the first block of each segment by address. It stays the same object as long as the segment lives.
    """

    def __init__(
        self,
        settings: Settings,
        rules: Rules,
        stats: DeviceStats,
        total_bytes: int | None,
        other_bytes: int,
        on_segment: Callable[[SegmentEvent], None] | None,
    ) -> None:
        self.total_bytes = total_bytes
        self.other_bytes = other_bytes
        fraction = settings.memory_fraction
        self.allowed_bytes = None if fraction is None or total_bytes is None else int(fraction * total_bytes)
        self.settings = settings
        self.rules = rules
        self.stats = stats
        self.heads: dict[int, Block] = {}
        self._on_segment = on_segment
        self.addresses = Addresses()

    @property
    def free_bytes(self) -> int | None:
        """What can still be taken; None where it never runs out."""
        if self.total_bytes is None:
            return None
        return max(self.total_bytes - self.other_bytes - self.stats.reserved_bytes[0].current, 0)

    @property
    def left_bytes(self) -> int:
        """What the process can still take, as told when it has run out."""
        free_bytes = self.free_bytes or 0
        if self.allowed_bytes is None:
            return free_bytes
        return max(min(free_bytes, self.allowed_bytes - self.stats.reserved_bytes[0].current), 0)

    def fits(self, num_bytes: int) -> bool:
        """Whether the device has as much left."""
        free_bytes = self.free_bytes
        return free_bytes is None or num_bytes <= free_bytes

    def allows(self, num_bytes: int) -> bool:
        """Whether the process may take as much more. Source: ``alloc_block``."""
        return self.allowed_bytes is None or self.stats.reserved_bytes[0].current + num_bytes <= self.allowed_bytes

    def take(self, free_list: FreeList, num_bytes: int) -> Block | None:
        """``cudaMalloc``: a segment that is one block, on no free list yet; None where there is too little."""
        if not self.fits(num_bytes):
            return None
        block = Block(self.addresses.take(num_bytes), num_bytes, FREE, free_list)
        self.heads[block.address] = block
        self.note_segment(free_list, 1)
        self.note(free_list, "segment_alloc", block.address, num_bytes)
        if self._is_oversize(num_bytes):
            self.stats.oversize_segments.add(1)
        return block

    def give_back(self, block: Block) -> None:
        """``cudaFree`` of a segment that is one free block. Source: ``release_block``."""
        free_list = block.home
        free_list.remove(block)
        del self.heads[block.address]
        self.note_segment(free_list, -1)
        self.note(free_list, "segment_free", block.address, -block.size)
        if self._is_oversize(block.size):
            self.stats.oversize_segments.add(-1)
        if free_list.pool.owner is not None:
            free_list.pool.owner.num_segments -= 1

    def note(self, free_list: FreeList, action: str, address: int, change: int) -> None:
        """Reserved bytes changed by ``change`` through a call to the device."""
        self.note_reserved(free_list, change)
        if change > 0:
            self.stats.num_device_alloc += 1
        else:
            self.stats.num_device_free += 1
        if self._on_segment is not None:
            self._on_segment(
                SegmentEvent(action=action, address=address, num_bytes=abs(change), stream=free_list.stream)
            )

    def note_reserved(self, free_list: FreeList, change: int) -> None:
        _add(self.stats.reserved_bytes, free_list, change)

    def note_segment(self, free_list: FreeList, change: int) -> None:
        _add(self.stats.segment, free_list, change)

    def _is_oversize(self, num_bytes: int) -> bool:
        limit = self.settings.max_split_bytes
        return limit is not None and num_bytes >= limit


def _add(stats: tuple[Stat, Stat, Stat], free_list: FreeList, amount: int) -> None:
    """Change the level of all pools and that of the list's own kind."""
    stats[0].add(amount)
    stats[1 if free_list.pool.is_small else 2].add(amount)

"""The allocator with default or with expandable segments, at two thirds of the cost.

What ``unlimited`` cannot play goes through it, tens of thousands of events: a card that runs out, expandable segments.
``tests`` hold it against ``CachingAllocator``.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from memprof.allocator.blocks import ADDRESS_BITS, ALLOCATED, FREE, Block
from memprof.allocator.native import CachingAllocator
from memprof.allocator.rules import RULES, Rules
from memprof.allocator.settings import Settings


def is_plain(settings: Settings) -> bool:
    """Whether ``PlainAllocator`` decides as ``CachingAllocator`` does under these settings."""
    return not (settings.max_split_bytes or settings.roundup_divisions or settings.garbage_collection_threshold)


class PlainAllocator(CachingAllocator):
    """Makes every decision of ``CachingAllocator``, and counts bytes only: what is held, and its peak.

    A free takes effect at once; there are no captures and no blocks that wait for a stream.
    """

    __slots__ = ("_allocated_bytes", "_peaks", "_requested_bytes")

    def __init__(
        self, settings: Settings, *, device_bytes: int | None = None, other_bytes: int = 0, rules: Rules = RULES
    ) -> None:
        super().__init__(settings, device_bytes=device_bytes, other_bytes=other_bytes, rules=rules)
        self._peaks = self.stats.together
        self._allocated_bytes = self._requested_bytes = 0

    @property
    def allocated_bytes(self) -> int:
        return self._allocated_bytes

    def malloc(self, num_bytes: int, stream: int = 0) -> Block:
        """As ``CachingAllocator.malloc``."""
        unit = self._unit
        size = (num_bytes + unit - 1) // unit * unit
        free_list = (self._lists.get(stream) or self._open(stream))[size > self._small_request]
        keys = free_list.keys
        index = bisect_left(keys, size << ADDRESS_BITS)
        if index < len(keys):
            if self._expands:
                index = self._expandable.prefer(free_list, index)
            block = free_list.blocks.pop(keys.pop(index))
        else:
            block = self._from_device(free_list, size, num_bytes)
        rest = block.size - size
        if rest >= free_list.split_from:
            free_list.insert(block.cut(size, FREE))
        block.state = ALLOCATED
        block.requested = num_bytes
        self._allocated_bytes = allocated = self._allocated_bytes + block.size
        self._requested_bytes = requested = self._requested_bytes + num_bytes
        peaks = self._peaks
        if allocated > peaks.bytes:
            peaks.bytes = allocated
        if requested > peaks.requested:
            peaks.requested = requested
        return block

    def free(self, block: Block) -> None:
        """As ``CachingAllocator.free``."""
        self._allocated_bytes -= block.size
        self._requested_bytes -= block.requested
        home = block.home
        block.state = FREE
        after, before = block.next, block.previous
        if after is not None and after.state == FREE:
            home.remove(after)
            block.absorb_next()
        if before is not None and before.state == FREE:
            home.remove(before)
            before.absorb_next()
            block = before
        key = block.size << ADDRESS_BITS | block.address
        insort(home.keys, key)
        home.blocks[key] = block

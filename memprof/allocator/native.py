"""The caching allocator: blocks from cached segments where one fits, new segments from the device where none does."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import pairwise

from memprof.allocator.blocks import (
    ADDRESS_BITS,
    ALLOCATED,
    FREE,
    PENDING,
    UNMAPPED,
    Block,
    FreeList,
    Pool,
    PrivatePool,
)
from memprof.allocator.device import Device, SegmentEvent
from memprof.allocator.expandable import ExpandableSegments
from memprof.allocator.oom import OutOfMemoryError
from memprof.allocator.release import collect_garbage, releasable, release_oversize, release_pool
from memprof.allocator.rules import RULES, Rules, round_size, segment_size
from memprof.allocator.settings import DEFAULTS, Settings
from memprof.allocator.stats import DeviceStats

# Larger than any block: what max_split_size is where it is not set.
_UNLIMITED = 1 << ADDRESS_BITS


class CachingAllocator:
    """One device's allocator. ``malloc`` and ``free`` are the hot path and spell out what they could call.

    The device is never asked which streams have finished: whoever drives the simulation says so with
    ``complete_free``.

    Known limitations: user-made memory pools (``torch.cuda.MemPool``), checkpoints of private pools and a change of
    settings on the way are not modelled.

    Args:
        device_bytes: what ``cudaMemGetInfo`` calls total; None: never runs out.
        other_bytes: what others than this allocator hold of it: contexts, libraries, communicators.
        on_segment: told of each segment that is taken, given back, mapped or unmapped.

    Source: ``DeviceCachingAllocator``, see ``memprof.allocator.rules.ALLOCATOR_URL``.
    """

    __slots__ = (
        "_captures", "_collects", "_deferred", "_divisions", "_events", "_expandable", "_expands", "_large", "_lists",
        "_max_split", "_plain", "_private", "_small", "_small_request", "_streams", "_unit",
        "device", "rules", "settings", "stats",
    )  # fmt: skip

    def __init__(
        self,
        settings: Settings = DEFAULTS,
        *,
        device_bytes: int | None = None,
        other_bytes: int = 0,
        rules: Rules = RULES,
        on_segment: Callable[[SegmentEvent], None] | None = None,
    ) -> None:
        self.settings = settings
        self.rules = rules
        self.stats = DeviceStats()
        self._max_split = _UNLIMITED if settings.max_split_bytes is None else settings.max_split_bytes
        self.device = Device(settings, rules, self.stats, device_bytes, other_bytes, on_segment)
        self._expandable = ExpandableSegments(self.device)
        self._small, self._large = self._new_pools()
        self._lists: dict[int, tuple[FreeList, FreeList]] = {}
        self._streams: dict[Block, set[int]] = {}  # recorded on blocks that are not freed yet
        self._events: dict[Block, int] = {}  # streams that a pending block waits for
        self._private: dict[Hashable, PrivatePool] = {}
        self._captures: dict[Hashable, frozenset[int] | None] = {}
        self._deferred: list[Block] = []
        self._expands = settings.expandable_segments
        self._collects = self.device.allowed_bytes is not None and settings.garbage_collection_threshold is not None
        # With these settings the best fit is simply the first block that is large enough.
        self._plain = not (self._expands or settings.max_split_bytes or self._collects)
        self._divisions = settings.roundup_divisions
        self._unit = rules.min_block
        self._small_request = rules.small_request

    # ---- what a program does ----

    def malloc(self, num_bytes: int, stream: int = 0) -> Block:
        """A block for a request of ``num_bytes`` (more than 0) by work on ``stream``.

        Raises:
            OutOfMemoryError: neither cache nor device could serve it.

        Source: ``malloc``, ``alloc_found_block`` and ``should_split``.
        """
        unit = self._unit
        if num_bytes < unit or self._divisions:
            size = self.round_size(num_bytes)
        else:
            size = (num_bytes + unit - 1) // unit * unit
        if self._captures or self._deferred:
            free_list = self._capturing(size, stream)
        else:
            lists = self._lists.get(stream) or self._open(stream)
            free_list = lists[size > self._small_request]

        keys = free_list.keys
        index = bisect_left(keys, size << ADDRESS_BITS) if self._plain else self._best_fit(free_list, size)
        if index < len(keys):
            block = free_list.blocks.pop(keys.pop(index))
        else:
            block = self._from_device(free_list, size, num_bytes)

        before, after = block.previous, block.next
        rest = block.size - size
        if rest >= free_list.split_from and size < free_list.split_below:
            address = block.address + size
            remaining = Block(address, rest, FREE, free_list)
            remaining.previous = block
            remaining.next = after
            if after is not None:
                after.previous = remaining
            block.next = remaining
            block.size = size
            key = rest << ADDRESS_BITS | address
            insort(keys, key)
            free_list.blocks[key] = remaining
            if self._collects:
                remaining.age_base = free_list.pool.num_searches
            if block.segment is not None:
                remaining.segment = block.segment
            elif before is None and after is None:
                free_list.stats.split_changed(1, rest)
            else:
                free_list.stats.split_changed(0, -size)
        else:
            size = block.size
            if (before is not None or after is not None) and block.segment is None:
                free_list.stats.split_changed(-1, -size)

        block.state = ALLOCATED
        block.requested = num_bytes
        free_list.stats.allocated(size, num_bytes)
        if size >= self._max_split:
            self.stats.oversize_allocations.add(1)
        return block

    def free(self, block: Block) -> None:
        """Give a block back; it can serve again at once unless ``record_stream`` named another stream for it."""
        if self._streams and block in self._streams:
            self.request_free(block)
            return
        if block.state != ALLOCATED:
            raise ValueError(f"the block at {block.address} is not allocated")
        home = block.home
        home.stats.freed(block.size, block.requested)
        if block.size >= self._max_split:
            self.stats.oversize_allocations.add(-1)
        self._cache(block, home)

    def record_stream(self, block: Block, stream: int) -> None:
        """Another stream uses the block: once freed it waits for that stream. Its own stream needs no waiting."""
        if stream != block.home.stream:
            self._streams.setdefault(block, set()).add(stream)

    def request_free(self, block: Block) -> None:
        """Give a block back that streams may still use; it waits for one ``complete_free`` for each of them."""
        if block.state != ALLOCATED:
            raise ValueError(f"the block at {block.address} is not allocated")
        block.state = PENDING
        self._events[block] = len(self._streams.pop(block, ())) or 1
        block.home.stats.pended(block.size)
        if block.size >= self._max_split:
            self.stats.oversize_allocations.add(-1)

    def complete_free(self, block: Block) -> None:
        """A stream has finished with a pending block; nothing happens where a retry has waited for it already.

        During a capture no stream can be asked, so the block stays pending until the first request after it.
        """
        if block not in self._events:
            return
        if self._captures:
            self._deferred.append(block)
            return
        self._events[block] -= 1
        if self._events[block] == 0:
            del self._events[block]
            block.home.stats.completed(block.size, block.requested)
            self._cache(block, block.home)

    def empty_cache(self) -> None:
        """``torch.cuda.empty_cache``: wait for all streams and give back every segment that nothing uses.

        Source: ``release_cached_blocks``.
        """
        if not self._captures:
            self.stats.num_sync_all_streams += 1
            self._deferred.clear()
            for block in list(self._events):
                self._events[block] = 1
                self.complete_free(block)
        for pool in (self._large, self._small):
            release_pool(pool, self.device, self._expandable)
        for name, private in list(self._private.items()):
            if private.num_users == 0:
                for pool in (private.small, private.large):
                    release_pool(pool, self.device, self._expandable)
                if private.num_segments == 0:
                    del self._private[name]

    def begin_capture(self, pool: Hashable, streams: Iterable[int] | None = None) -> None:
        """Serve requests of ``streams`` (None: all) from the private pool ``pool`` until the capture ends."""
        if pool in self._captures:
            raise ValueError(f"already capturing into pool {pool!r}")
        if pool not in self._private:
            self._private[pool] = PrivatePool(*self._new_pools())
        self._private[pool].num_users += 1
        self._captures[pool] = None if streams is None else frozenset(streams)

    def end_capture(self, pool: Hashable) -> None:
        """The capture into ``pool`` is complete; its graph keeps the memory."""
        del self._captures[pool]

    def release_pool(self, pool: Hashable) -> None:
        """A graph that was captured into ``pool`` is gone; after the last one the pool's free segments can go too."""
        self._private[pool].num_users -= 1

    def restore_segment(
        self, blocks: Iterable[tuple[int, bool]], *, is_small: bool, stream: int = 0, is_expandable: bool = False
    ) -> list[Block]:
        """Start with a segment that exists already: (bytes, whether allocated) of its blocks by address.

        An expandable one becomes an ordinary segment where the settings do not expand any.
        """
        free_list = (self._small if is_small else self._large).list_of(stream)
        made = [Block(0, size, ALLOCATED if allocated else FREE, free_list) for size, allocated in blocks]
        for before, after in pairwise(made):
            after.insert_after(before)
        size = sum(block.size for block in made)
        self.device.note_reserved(free_list, size)
        if is_expandable and self._expands:
            self._expandable.adopt(free_list, made)
        else:
            self.device.note_segment(free_list, 1)
            address = self.device.addresses.take(size)
            self.device.heads[address] = made[0]
            for block in made:
                block.address = address
                address += block.size
        for block in made:
            if block.state == FREE:
                free_list.insert(block)
                if block.is_split and block.segment is None:
                    free_list.stats.split_changed(1, block.size)
            else:
                block.requested = block.size
                free_list.stats.allocated(block.size, block.size)
        return made

    # ---- what it holds ----

    @property
    def allocated_bytes(self) -> int:
        return self.stats.small.bytes + self.stats.large.bytes

    @property
    def active_bytes(self) -> int:
        return self.allocated_bytes + self.stats.small.pending_bytes + self.stats.large.pending_bytes

    @property
    def reserved_bytes(self) -> int:
        return self.stats.reserved_bytes[0].current

    def memory_stats(self) -> dict[str, int]:
        """Named as ``torch.cuda.memory_stats`` names them."""
        return self.stats.flat()

    def segments(self) -> Iterator[list[Block]]:
        """The blocks of each segment by address; of an expandable one each stretch that is mapped without a gap."""
        for _, head in sorted(self.device.heads.items()):
            stretch: list[Block] = []
            block: Block | None = head
            while block is not None:
                if block.state != UNMAPPED:
                    stretch.append(block)
                elif stretch:
                    yield stretch
                    stretch = []
                block = block.next
            if stretch:
                yield stretch

    def releasable(self) -> list[int]:
        """Sizes of what ``empty_cache`` would give back now: whole free segments, and runs of free pages."""
        return releasable([self._small, self._large])

    def free_picture(self) -> object:
        """The free blocks of every pool, and their ages where these matter.

        With the places of the living blocks it decides where all later requests go.
        """
        pools = [self._small, self._large]
        for private in self._private.values():
            pools += [private.small, private.large]
        return [
            (
                stream,
                free.keys[:],
                [(block.address, block.size) for block in free.unmapped.values()],
                [pool.num_searches - free.blocks[key].age_base for key in free.keys] if self._collects else (),
            )
            for pool in pools
            for stream, free in sorted(pool.lists.items())
        ]

    def round_size(self, num_bytes: int) -> int:
        """Bytes of the block that a request gets."""
        return round_size(num_bytes, self._divisions, self.rules)

    def segment_size(self, block_bytes: int) -> int:
        """Bytes of the segment that is made for such a block."""
        return segment_size(block_bytes, self.settings.large_segment_bytes, self.rules)

    # ---- finding a block, and taking it back ----

    def _new_pools(self) -> tuple[Pool, Pool]:
        """Source of the thresholds: ``should_split``."""
        small_rest, large_rest = self.rules.small_remainder, self.rules.large_remainder
        small = Pool(True, self.stats.small, small_rest, _UNLIMITED)
        if self.settings.expandable_segments:
            return small, Pool(False, self.stats.large, small_rest, _UNLIMITED)
        return small, Pool(False, self.stats.large, large_rest, self._max_split)

    def _open(self, stream: int) -> tuple[FreeList, FreeList]:
        lists = self._lists[stream] = (self._small.list_of(stream), self._large.list_of(stream))
        return lists

    def _capturing(self, size: int, stream: int) -> FreeList:
        """The free list for a request during a capture or the first after it. Source: ``get_pool``."""
        if not self._captures:
            deferred, self._deferred = self._deferred, []
            for block in deferred:
                self.complete_free(block)
        is_small = size <= self._small_request
        for name, streams in self._captures.items():
            if streams is None or stream in streams:
                private = self._private[name]
                return (private.small if is_small else private.large).list_of(stream)
        return (self._small if is_small else self._large).list_of(stream)

    def _best_fit(self, free_list: FreeList, size: int) -> int:
        """Index of the block to use, or past the end. Source: ``get_free_block``."""
        keys, max_split = free_list.keys, self._max_split
        if self._collects:
            free_list.pool.num_searches += 1
        index = bisect_left(keys, size << ADDRESS_BITS)
        if index == len(keys):
            return index
        if self._expands:
            index = self._expandable.prefer(free_list, index)
        found = keys[index] >> ADDRESS_BITS
        if size < max_split:
            return index if found < max_split else len(keys)
        rounding = self.settings.max_non_split_rounding_bytes
        slack = self.settings.large_segment_bytes if rounding is None else rounding
        return index if found < size + slack else len(keys)

    def _from_device(self, free_list: FreeList, size: int, num_bytes: int) -> Block:
        """A block of new memory, after giving back what it takes to get it. Source: the miss branch of ``malloc``."""
        if self._collects:
            threshold = self.settings.garbage_collection_threshold
            assert threshold is not None
            collect_garbage(self._large, threshold, self.device)
        block = self._take(free_list, size)
        if block is None and release_oversize(free_list, size, self.settings, self.device):
            block = self._take(free_list, size)
        if block is None and not self._captures:
            self.empty_cache()
            self.stats.num_alloc_retries += 1
            block = self._take(free_list, size)
        if block is None:
            self.stats.num_ooms += 1
            raise OutOfMemoryError(
                requested_bytes=num_bytes,
                block_bytes=size,
                segment_bytes=self.segment_size(size),
                stream=free_list.stream,
                allocated_bytes=self.allocated_bytes,
                reserved_bytes=self.reserved_bytes,
                device_free_bytes=self.device.left_bytes,
                largest_free_bytes=free_list.keys[-1] >> ADDRESS_BITS if free_list.keys else 0,
            )
        return block

    def _take(self, free_list: FreeList, size: int) -> Block | None:
        """New memory for a block, or None where there is too little. Source: ``alloc_block``."""
        num_bytes = self.segment_size(size)
        if not self.device.allows(num_bytes):
            return None
        block = self._expandable.allocate(free_list, size) if self._expands else self.device.take(free_list, num_bytes)
        if block is not None and free_list.pool.owner is not None:
            free_list.pool.owner.num_segments += 1
        return block

    def _cache(self, block: Block, home: FreeList) -> None:
        """Merge a block with its free neighbours and put it on the free list. Source: ``free_block``.

        The left-most block survives, so a segment's first block stays the same object for life.
        """
        keys, blocks = home.keys, home.blocks
        num_splits = split_bytes = 0
        block.state = FREE
        after = block.next
        if after is not None and after.state == FREE:
            num_splits -= 1
            split_bytes -= after.size
            key = after.size << ADDRESS_BITS | after.address
            del keys[bisect_left(keys, key)], blocks[key]
            block.absorb_next()
        before = block.previous
        if before is not None and before.state == FREE:
            num_splits -= 1
            split_bytes -= before.size
            key = before.size << ADDRESS_BITS | before.address
            del keys[bisect_left(keys, key)], blocks[key]
            before.absorb_next()
            block = before
        key = block.size << ADDRESS_BITS | block.address
        insort(keys, key)
        blocks[key] = block
        if self._collects:
            block.age_base = home.pool.num_searches
        if block.segment is None:
            if block.previous is not None or block.next is not None:
                home.stats.split_changed(num_splits + 1, split_bytes + block.size)
            elif num_splits:
                home.stats.split_changed(num_splits, split_bytes)

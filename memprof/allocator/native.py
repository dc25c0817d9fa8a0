"""The caching allocator: blocks from cached segments where one fits, new segments from the device where none does."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
from memprof.allocator.expandable import ExpandableSegments, whole_pages
from memprof.allocator.rules import RULES, Rules, round_size, round_up, segment_size
from memprof.allocator.settings import DEFAULTS, Settings
from memprof.allocator.stats import PoolStats, Stat, memory_stats
from memprof.units import MiB, TiB

# Among equally large free blocks the one at the lowest address is taken, and no document says where the driver puts a
# segment. With small segments going up and large ones going down from high above, every recorded tape comes out right
# (tests/unit/test_allocator_tapes.py); going up, or down, with all of them does not.
_ADDRESS_UNIT = 2 * MiB
_UPWARD_UNTIL = 32 * MiB
_LOWEST_ADDRESS = 1 * TiB
_HIGHEST_ADDRESS = 4096 * TiB  # exact as a float too, so that viewers written in JavaScript can show addresses


@dataclass(frozen=True, kw_only=True)
class SegmentEvent:
    """The allocator took memory from the device or gave it back; the names are a snapshot's."""

    action: str  # segment_alloc, segment_free, segment_map, segment_unmap
    address: int
    num_bytes: int
    stream: int


class OutOfMemoryError(Exception):
    """What the simulated program would see as ``torch.OutOfMemoryError``; all figures at that moment, in bytes.

    Attributes:
        requested_bytes: the request that failed; ``block_bytes`` as rounded, ``segment_bytes`` as asked of the device.
        device_free_bytes: what the device, or the process's share of it, still had.
        largest_free_bytes: the largest cached block that the request's stream and pool could have used.
    """

    def __init__(self, allocator: CachingAllocator, num_bytes: int, free_list: FreeList) -> None:
        self.requested_bytes = num_bytes
        self.stream = free_list.stream
        self.block_bytes = allocator.round_size(num_bytes)
        self.segment_bytes = allocator.segment_size(self.block_bytes)
        self.allocated_bytes = allocator.allocated_bytes
        self.reserved_bytes = allocator.reserved_bytes
        self.device_free_bytes = allocator.device_free_bytes or 0
        self.largest_free_bytes = (free_list.keys[-1] >> ADDRESS_BITS) if free_list.keys else 0
        super().__init__(f"out of memory: tried to allocate {num_bytes} bytes")

    @property
    def reason(self) -> str:
        """``fragmentation`` where cached and free bytes together would have held the block, else ``capacity``."""
        unused = self.reserved_bytes - self.allocated_bytes + self.device_free_bytes
        return "fragmentation" if unused >= self.block_bytes else "capacity"


class CachingAllocator:
    """One device's allocator. ``malloc`` and ``free`` are the hot path and spell out what they could call.

    A device is never asked which streams have finished: whoever drives the simulation says so with
    ``complete_free``. Addresses are the simulation's own; the driver's are known to no one beforehand.

    Known limitations: memory that PyTorch did not take itself (context, NCCL, cuBLAS's own) is one figure,
    ``other_bytes``; user-made memory pools (``torch.cuda.MemPool``) and checkpoints of private pools are not modelled.

    Args:
        device_bytes: what ``cudaMemGetInfo`` calls total; None: never runs out.
        other_bytes: what others than this allocator hold of it.
        on_segment: told of each segment that is taken, given back, mapped or unmapped.

    Source: ``DeviceCachingAllocator``, see ``memprof.allocator.rules.ALLOCATOR_URL``.
    """

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
        self.device_bytes = device_bytes
        self.other_bytes = other_bytes
        self.stats = PoolStats()
        self.oversize_allocations = Stat()
        self.oversize_segments = Stat()
        self.num_alloc_retries = self.num_ooms = self.num_sync_all_streams = 0
        self.num_device_alloc = self.num_device_free = 0
        self._on_segment = on_segment
        self._next_small_address, self._last_large_address = _LOWEST_ADDRESS, _HIGHEST_ADDRESS
        self._heads: dict[int, Block] = {}
        self._pending: dict[Block, None] = {}
        self._small_stats, self._large_stats = PoolStats(), PoolStats()
        self._small, self._large = self._new_pools()
        self._lists: dict[int, tuple[FreeList, FreeList]] = {}
        self._private: dict[object, PrivatePool] = {}
        self._captures: dict[object, frozenset[int] | None] = {}
        self._deferred: list[Block] = []
        self._expandable = ExpandableSegments(self) if settings.expandable_segments else None
        limit = settings.memory_fraction
        self._allowed = None if limit is None or device_bytes is None else int(limit * device_bytes)
        self._collects = self._allowed is not None and settings.garbage_collection_threshold is not None
        # With these settings the best fit is simply the first block that is large enough.
        self._plain = not (settings.expandable_segments or settings.max_split_bytes or self._collects)
        self._max_split = settings.max_split_bytes if settings.max_split_bytes is not None else 1 << ADDRESS_BITS

    # ---- what a program does ----

    def malloc(self, num_bytes: int, stream: int = 0) -> Block:
        """A block for a request of ``num_bytes`` (more than 0) by work on ``stream``.

        Raises:
            OutOfMemoryError: neither cache nor device could serve it.

        Source: ``malloc`` and ``alloc_found_block``.
        """
        if self._deferred and not self._captures:
            self._settle_deferred()
        if self.settings.roundup_divisions or num_bytes < self.rules.min_block:
            size = self.round_size(num_bytes)
        else:
            unit = self.rules.min_block
            size = -(-num_bytes // unit) * unit
        if self._captures:
            free_list = self._route(size, stream)
        else:
            pair = self._lists.get(stream) or self._open_stream(stream)
            free_list = pair[size > self.rules.small_request]

        keys = free_list.keys
        index = bisect_left(keys, size << ADDRESS_BITS) if self._plain else self._best_fit(free_list, size)
        if index < len(keys):
            block = free_list.blocks.pop(keys.pop(index))
        else:
            block = self._from_device(free_list, size, num_bytes)

        pool, stats = free_list.pool, free_list.stats
        was_split = block.previous is not None or block.next is not None
        rest = block.size - size
        if rest >= pool.split_from and (size < self._max_split or pool.is_small or self._expandable is not None):
            remaining = Block(block.address + size, rest, FREE, free_list)
            remaining.segment = block.segment
            remaining.previous = block
            after = remaining.next = block.next
            if after is not None:
                after.previous = remaining
            block.next = remaining
            block.size = size
            remaining.age_base = pool.num_searches
            key = rest << ADDRESS_BITS | remaining.address
            insort(keys, key)
            free_list.blocks[key] = remaining
            if block.segment is None:
                if was_split:
                    self._add_split(stats, 0, -size)
                else:
                    self._add_split(stats, 1, rest)
        elif was_split and block.segment is None:
            self._add_split(stats, -1, -block.size)

        block.state = ALLOCATED
        block.requested = num_bytes
        size = block.size
        stats.allocated(size, num_bytes)
        self.stats.allocated(size, num_bytes)
        if size >= self._max_split:
            self.oversize_allocations.add(1)
        return block

    def free(self, block: Block) -> None:
        """Give a block back; it can serve again at once unless ``record_stream`` named another stream for it."""
        if block.streams:
            self.request_free(block)
            return
        if block.state != ALLOCATED:
            raise ValueError(f"block at {block.address} is not allocated")
        size = block.size
        block.home.stats.freed(size, block.requested)
        self.stats.freed(size, block.requested)
        if size >= self._max_split:
            self.oversize_allocations.add(-1)
        self._cache(block)

    def record_stream(self, block: Block, stream: int) -> None:
        """Another stream uses the block: once freed it waits for that stream. Its own stream needs no waiting."""
        if stream != block.home.stream:
            if block.streams is None:
                block.streams = set()
            block.streams.add(stream)

    def request_free(self, block: Block) -> None:
        """Give a block back that streams may still use; it waits for one ``complete_free`` for each of them."""
        if block.state != ALLOCATED:
            raise ValueError(f"block at {block.address} is not allocated")
        block.state = PENDING
        block.events = len(block.streams) if block.streams else 1
        block.streams = None
        block.home.stats.pended(block.size)
        self.stats.pended(block.size)
        if block.size >= self._max_split:
            self.oversize_allocations.add(-1)
        self._pending[block] = None

    def complete_free(self, block: Block) -> None:
        """A stream has finished with a pending block; nothing happens where a retry has waited for it already.

        During a capture no stream can be asked, so the block stays pending until the first request after it.
        """
        if block.state != PENDING:
            return
        if self._captures:
            self._deferred.append(block)
            return
        block.events -= 1
        if block.events == 0:
            del self._pending[block]
            block.home.stats.completed(block.size, block.requested)
            self.stats.completed(block.size, block.requested)
            self._cache(block)

    def empty_cache(self) -> None:
        """``torch.cuda.empty_cache``: wait for all streams and give back every segment that nothing uses."""
        self._release_cached()

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
        if is_expandable and self._expandable is not None:
            self._expandable.adopt(free_list, made)
        else:
            address = self.new_addresses(size)
            for block in made:
                block.address = address
                address += block.size
            self.add_segment(made[0])
        for stats in (free_list.stats, self.stats):
            stats.reserved_bytes.add(size)
            if made[0].segment is None:
                stats.segment.add(1)
        for block in made:
            if block.state == FREE:
                free_list.insert(block)
                if block.is_split and block.segment is None:
                    self._add_split(free_list.stats, 1, block.size)
            else:
                block.requested = block.size
                free_list.stats.allocated(block.size, block.size)
                self.stats.allocated(block.size, block.size)
        return made

    # ---- CUDA graphs ----

    def begin_capture(self, pool: object, streams: Iterable[int] | None = None) -> None:
        """Serve requests of ``streams`` (None: all) from the private pool ``pool`` until the capture ends."""
        if pool in self._captures:
            raise ValueError(f"already capturing into pool {pool!r}")
        private = self._private.get(pool)
        if private is None:
            private = self._private[pool] = PrivatePool(*self._new_pools())
        private.num_users += 1
        self._captures[pool] = None if streams is None else frozenset(streams)

    def end_capture(self, pool: object) -> None:
        """The capture into ``pool`` is complete; its graph keeps the memory."""
        del self._captures[pool]

    def release_pool(self, pool: object) -> None:
        """A graph that was captured into ``pool`` is gone; after the last one the pool's free segments can go too."""
        self._private[pool].num_users -= 1

    # ---- what it holds ----

    @property
    def allocated_bytes(self) -> int:
        return self.stats.bytes

    @property
    def active_bytes(self) -> int:
        return self.stats.bytes + self.stats.pending_bytes

    @property
    def reserved_bytes(self) -> int:
        return self.stats.reserved_bytes.current

    @property
    def device_free_bytes(self) -> int | None:
        """What a device call can still get; None where the device never runs out."""
        if self.device_bytes is None:
            return None
        return max(self.device_bytes - self.other_bytes - self.reserved_bytes, 0)

    def memory_stats(self) -> dict[str, int]:
        """Named as ``torch.cuda.memory_stats`` names them; ``freed`` is all that was ever taken off a level."""
        counts = ("num_alloc_retries", "num_ooms", "num_sync_all_streams", "num_device_alloc", "num_device_free")
        return memory_stats(
            {"all": self.stats, "small_pool": self._small_stats, "large_pool": self._large_stats},
            {"oversize_allocations": self.oversize_allocations, "oversize_segments": self.oversize_segments},
            {name: getattr(self, name) for name in counts},
        )

    def reset_peaks(self) -> None:
        """``torch.cuda.reset_peak_memory_stats``."""
        for stats in (self.stats, self._small_stats, self._large_stats):
            stats.reset_peaks()
        for stat in (self.oversize_allocations, self.oversize_segments):
            stat.peak = stat.current

    def segments(self) -> Iterator[list[Block]]:
        """The blocks of each segment by address; of an expandable one each stretch that is mapped without a gap."""
        for _, head in sorted(self._heads.items()):
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
        sizes = []
        for pool in (self._large, self._small):
            for block in pool.free_blocks():
                if block.segment is not None:
                    start, end = whole_pages(block, block.segment)
                    sizes.append(max(end - start, 0))
                elif not block.is_split:
                    sizes.append(block.size)
        return sorted(size for size in sizes if size)

    def free_picture(self) -> tuple[object, ...]:
        """All that decides where later requests go; two equal pictures have equal futures."""
        pools = [self._small, self._large]
        for private in self._private.values():
            pools += [private.small, private.large]
        return tuple(
            (stream, tuple(free.keys), tuple((block.address, block.size) for block in free.unmapped.values()))
            for pool in pools
            for stream, free in sorted(pool.lists.items())
        )

    def round_size(self, num_bytes: int) -> int:
        """Bytes of the block that a request gets."""
        return round_size(num_bytes, self.settings.roundup_divisions, self.rules)

    def segment_size(self, block_bytes: int) -> int:
        """Bytes of the segment that is made for such a block."""
        return segment_size(block_bytes, self.settings.large_segment_bytes, self.rules)

    # ---- finding a block ----

    def _route(self, size: int, stream: int) -> FreeList:
        """The free list that serves a request while a capture is under way. Source: ``get_pool``."""
        is_small = size <= self.rules.small_request
        for name, streams in self._captures.items():
            if streams is None or stream in streams:
                private = self._private[name]
                return (private.small if is_small else private.large).list_of(stream)
        return (self._small if is_small else self._large).list_of(stream)

    def _open_stream(self, stream: int) -> tuple[FreeList, FreeList]:
        pair = self._lists[stream] = (self._small.list_of(stream), self._large.list_of(stream))
        return pair

    def _best_fit(self, free_list: FreeList, size: int) -> int:
        """Index of the block to use, or past the end. Source: ``get_free_block``."""
        keys = free_list.keys
        none = len(keys)
        if self._collects:
            free_list.pool.num_searches += 1
        index = bisect_left(keys, size << ADDRESS_BITS)
        if index == none:
            return none
        if self._expandable is not None:
            index = self._expandable.prefer(free_list, index)
        found = keys[index] >> ADDRESS_BITS
        if size < self._max_split:
            return none if found >= self._max_split else index
        rounding = self.settings.max_non_split_rounding_bytes
        slack = self.settings.large_segment_bytes if rounding is None else rounding
        return none if found >= size + slack else index

    def _from_device(self, free_list: FreeList, size: int, num_bytes: int) -> Block:
        """A block of new memory, after giving back what it takes to get it. Source: the miss branch of ``malloc``."""
        if self._collects:
            self._collect_garbage()
        block = self._allocate_segment(free_list, size)
        if block is None and self._release_available(free_list, size):
            block = self._allocate_segment(free_list, size)
        if block is None and not self._captures:
            self._release_cached()
            self.num_alloc_retries += 1
            block = self._allocate_segment(free_list, size)
        if block is None:
            self.num_ooms += 1
            raise OutOfMemoryError(self, num_bytes, free_list)
        return block

    def _allocate_segment(self, free_list: FreeList, size: int) -> Block | None:
        """New memory for a block, or None where there is too little. Source: ``alloc_block``."""
        num_bytes = self.segment_size(size)
        if self._allowed is not None and self.reserved_bytes + num_bytes > self._allowed:
            return None
        if self._expandable is not None:
            block = self._expandable.allocate(free_list, size)
        elif self.fits(num_bytes):
            block = self.new_segment(free_list, num_bytes)
        else:
            return None
        if block is not None and free_list.pool.owner is not None:
            free_list.pool.owner.num_segments += 1
        return block

    def fits(self, num_bytes: int) -> bool:
        """Whether the device has as much left."""
        free_bytes = self.device_free_bytes
        return free_bytes is None or num_bytes <= free_bytes

    def new_segment(self, free_list: FreeList, num_bytes: int) -> Block:
        """``cudaMalloc``: a segment that is one block, on no free list yet."""
        block = Block(self.new_addresses(num_bytes), num_bytes, FREE, free_list)
        self.add_segment(block)
        self.count(free_list, "segment_alloc", block.address, num_bytes)
        free_list.stats.segment.add(1)
        self.stats.segment.add(1)
        if num_bytes >= self._max_split:
            self.oversize_segments.add(1)
        return block

    def new_addresses(self, num_bytes: int) -> int:
        """A range of addresses that was never handed out before."""
        num_bytes = round_up(num_bytes, _ADDRESS_UNIT)
        if num_bytes <= _UPWARD_UNTIL:
            self._next_small_address += num_bytes
            return self._next_small_address - num_bytes
        self._last_large_address -= num_bytes
        return self._last_large_address

    def add_segment(self, head: Block) -> None:
        """Note a new segment's first block."""
        self._heads[head.address] = head

    def forget_segment(self, head: Block) -> None:
        """A segment, of which only this block is left, is gone."""
        del self._heads[head.address]

    # ---- giving memory back ----

    def _cache(self, block: Block) -> None:
        """Merge a freed block with its free neighbours and put it on the free list. Source: ``free_block``.

        The left-most block survives, so a segment's first block stays the same object for life.
        """
        home = block.home
        num_splits = size_splits = 0
        after = block.next
        if after is not None and after.state == FREE:
            home.remove(after)
            num_splits -= 1
            size_splits -= after.size
            block.absorb_next()
        before = block.previous
        if before is not None and before.state == FREE:
            home.remove(before)
            num_splits -= 1
            size_splits -= before.size
            block.state = FREE
            before.absorb_next()
            block = before
        block.state = FREE
        block.age_base = home.pool.num_searches
        key = block.size << ADDRESS_BITS | block.address
        insort(home.keys, key)
        home.blocks[key] = block
        if block.segment is None:
            if block.previous is not None or block.next is not None:
                num_splits += 1
                size_splits += block.size
            if size_splits or num_splits:
                self._add_split(home.stats, num_splits, size_splits)

    def _settle_deferred(self) -> None:
        """Complete the frees that a capture put off. Source: ``insert_events_deferred_until_no_capture``."""
        deferred, self._deferred = self._deferred, []
        for block in deferred:
            self.complete_free(block)

    def _release_cached(self) -> None:
        """Source: ``release_cached_blocks``."""
        if not self._captures:
            self.num_sync_all_streams += 1
            self._deferred.clear()
            for block in list(self._pending):
                block.events = 1
                self.complete_free(block)
        self._release_pool(self._large)
        self._release_pool(self._small)
        for name, private in list(self._private.items()):
            if private.num_users == 0:
                self._release_pool(private.small)
                self._release_pool(private.large)
                if private.num_segments == 0:
                    del self._private[name]

    def _release_pool(self, pool: Pool) -> None:
        """Give back each segment that is one free block, and each free page. Source: ``release_blocks``."""
        blocks = pool.free_blocks()
        for block in blocks:
            if block.segment is None and not block.is_split:
                self._release_segment(block)
        for block in blocks:
            if block.segment is not None and self._expandable is not None:
                self._expandable.unmap(block)

    def _release_segment(self, block: Block) -> None:
        """``cudaFree``. Source: ``release_block``."""
        free_list = block.home
        free_list.remove(block)
        self.forget_segment(block)
        self.count(free_list, "segment_free", block.address, -block.size)
        free_list.stats.segment.add(-1)
        self.stats.segment.add(-1)
        if block.size >= self._max_split:
            self.oversize_segments.add(-1)
        if free_list.pool.owner is not None:
            free_list.pool.owner.num_segments -= 1

    def _release_available(self, free_list: FreeList, size: int) -> bool:
        """Give back just enough blocks that are too large to be split. Source: ``release_available_cached_blocks``."""
        if self.settings.max_split_bytes is None:
            return False
        wanted = max(size, self._max_split)
        index = bisect_left(free_list.keys, wanted << ADDRESS_BITS)
        candidates = [free_list.blocks[key] for key in free_list.keys]
        if index < len(candidates) and candidates[index].segment is None:
            self._release_segment(candidates[index])
            return True
        released = 0
        for block in reversed(candidates[:index]):
            if released >= wanted or block.size < self._max_split:
                break
            if block.segment is None:
                released += block.size
                self._release_segment(block)
        return released >= wanted

    def _collect_garbage(self) -> None:
        """Give back the segments that were idle for longest. Source: ``garbage_collect_cached_blocks``."""
        threshold, allowed = self.settings.garbage_collection_threshold, self._allowed
        assert threshold is not None
        assert allowed is not None
        excess = self.reserved_bytes - int(threshold * allowed)
        if excess <= 0:
            return
        searches = self._large.num_searches
        idle = [block for block in self._large.free_blocks() if not block.is_split and block.segment is None]
        reclaimed = 0
        while idle and reclaimed < excess:
            limit = sum(searches - block.age_base for block in idle) / len(idle)
            kept = []
            for block in idle:
                if searches - block.age_base >= limit:
                    reclaimed += block.size
                    self._release_segment(block)
                else:
                    kept.append(block)
            idle = kept

    # ---- bookkeeping ----

    def _new_pools(self) -> tuple[Pool, Pool]:
        small, large = self.rules.small_remainder, self.rules.large_remainder
        if self.settings.expandable_segments:
            large = small
        return Pool(True, self._small_stats, small), Pool(False, self._large_stats, large)

    def count(self, free_list: FreeList, action: str, address: int, change: int) -> None:
        """Reserved bytes changed by ``change``."""
        free_list.stats.reserved_bytes.add(change)
        self.stats.reserved_bytes.add(change)
        if change > 0:
            self.num_device_alloc += 1
        else:
            self.num_device_free += 1
        if self._on_segment is not None:
            self._on_segment(
                SegmentEvent(action=action, address=address, num_bytes=abs(change), stream=free_list.stream)
            )

    def _add_split(self, stats: PoolStats, num_blocks: int, num_bytes: int) -> None:
        """Free blocks that are part of a split segment, which cannot be given back, changed."""
        stats.inactive_split.add(num_blocks)
        stats.inactive_split_bytes.add(num_bytes)
        self.stats.inactive_split.add(num_blocks)
        self.stats.inactive_split_bytes.add(num_bytes)

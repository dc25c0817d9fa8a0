"""Blocks, the lists of free ones, and the pools that the lists belong to."""

from __future__ import annotations

from bisect import bisect_left, insort
from enum import IntEnum

from memprof.allocator.stats import PoolStats

# A free list is one sorted list of integers, (size, address) packed into each: comparing integers is the fastest thing
# that Python's bisect does, and the order is upstream's BlockComparatorSize.
ADDRESS_BITS = 56


class State(IntEnum):
    """A block is one of these; only neighbours that are both free, or both unmapped, merge."""

    FREE = 0
    ALLOCATED = 1
    PENDING = 2  # freed by the program, but another stream may still use it
    UNMAPPED = 3  # addresses of an expandable segment with no memory behind them


# The hot path compares states with plain integers: looking up an enum's member costs as much as the comparison.
FREE, ALLOCATED, PENDING, UNMAPPED = (int(state) for state in State)


class Block:
    """A stretch of one segment; ``previous`` and ``next`` are its neighbours there.

    ``size`` is what the block takes, ``requested`` what was last asked for. ``home`` is the free list to which it
    returns. ``segment`` is the expandable segment that it is part of, or None. ``age_base`` is the pool's
    ``num_searches`` when it was freed, where garbage collection needs it.
    """

    __slots__ = ("address", "age_base", "home", "next", "previous", "requested", "segment", "size", "state")

    def __init__(self, address: int, size: int, state: int, home: FreeList) -> None:
        self.address = address
        self.size = size
        self.state = state
        self.home = home
        self.requested = 0
        self.age_base = 0
        self.previous: Block | None = None
        self.next: Block | None = None
        self.segment: ExpandableSegment | None = None

    @property
    def is_split(self) -> bool:
        return self.previous is not None or self.next is not None

    def cut(self, size: int, state: int) -> Block:
        """Keep the first ``size`` bytes; the rest becomes a block of its own."""
        rest = Block(self.address + size, self.size - size, state, self.home)
        rest.segment = self.segment
        rest.insert_after(self)
        self.size = size
        return rest

    def insert_after(self, block: Block) -> None:
        """Become the right-hand neighbour of ``block``."""
        self.previous = block
        self.next = block.next
        if self.next is not None:
            self.next.previous = self
        block.next = self

    def absorb_next(self) -> None:
        """Take over the right-hand neighbour's bytes."""
        gone = self.next
        assert gone is not None
        self.size += gone.size
        self.next = gone.next
        if gone.next is not None:
            gone.next.previous = self


class ExpandableSegment:
    """A range of addresses into which pages are mapped one by one."""

    __slots__ = ("address", "page", "size")

    def __init__(self, address: int, size: int, page: int) -> None:
        self.address = address
        self.size = size
        self.page = page


class Pool:
    """A pool of small or of large blocks; each stream has a free list of its own in it.

    A block is split for a request of less than ``split_below`` where a rest of at least ``split_from`` remains.
    ``num_searches`` counts requests where garbage collection needs it.
    """

    __slots__ = ("is_small", "lists", "num_searches", "owner", "split_below", "split_from", "stats")

    def __init__(self, is_small: bool, stats: PoolStats, split_from: int, split_below: int) -> None:
        self.is_small = is_small
        self.stats = stats
        self.split_from = split_from
        self.split_below = split_below
        self.owner: PrivatePool | None = None
        self.num_searches = 0
        self.lists: dict[int, FreeList] = {}

    def list_of(self, stream: int) -> FreeList:
        found = self.lists.get(stream)
        if found is None:
            found = self.lists[stream] = FreeList(self, stream)
        return found

    def free_blocks(self) -> list[Block]:
        """All free blocks by stream, size and address."""
        return [free.blocks[key] for _, free in sorted(self.lists.items()) for key in free.keys]


class FreeList:
    """The free blocks of one stream in a pool by size and address, and its unmapped stretches by address."""

    __slots__ = (
        "blocks", "keys", "pool", "split_below", "split_from", "stats", "stream", "unmapped", "unmapped_addresses",
    )  # fmt: skip

    def __init__(self, pool: Pool, stream: int) -> None:
        self.pool = pool
        self.stream = stream
        self.stats = pool.stats
        self.split_from = pool.split_from
        self.split_below = pool.split_below
        self.keys: list[int] = []
        self.blocks: dict[int, Block] = {}
        self.unmapped: dict[int, Block] = {}
        self.unmapped_addresses: list[int] = []

    def insert(self, block: Block) -> None:
        block.age_base = self.pool.num_searches
        key = block.size << ADDRESS_BITS | block.address
        insort(self.keys, key)
        self.blocks[key] = block

    def remove(self, block: Block) -> None:
        key = block.size << ADDRESS_BITS | block.address
        del self.keys[bisect_left(self.keys, key)]
        del self.blocks[key]

    def insert_unmapped(self, block: Block) -> None:
        insort(self.unmapped_addresses, block.address)
        self.unmapped[block.address] = block

    def remove_unmapped(self, block: Block) -> None:
        del self.unmapped_addresses[bisect_left(self.unmapped_addresses, block.address)]
        del self.unmapped[block.address]


class PrivatePool:
    """A CUDA graph's own pair of pools: kept from everyone else while a graph that was captured into it lives."""

    __slots__ = ("large", "num_segments", "num_users", "small")

    def __init__(self, small: Pool, large: Pool) -> None:
        self.small = small
        self.large = large
        small.owner = large.owner = self
        self.num_users = 0
        self.num_segments = 0

"""The allocator on a device that never runs out, in plain integers: what nearly every estimate plays.

Where nothing is ever given back to the device, the pools of the streams do not touch one another. So each is played
alone, and only until it repeats: that of small blocks is often steady a step before that of large ones, or after it.

Blocks go where ``CachingAllocator`` puts them; ``tests`` hold the two against each other.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import accumulate, compress, count
from operator import mul
from typing import NamedTuple

from memprof.allocator.columns import columns
from memprof.allocator.device import Addresses
from memprof.allocator.result import PlayResult
from memprof.allocator.rules import Rules, round_size, segment_size
from memprof.allocator.settings import Settings
from memprof.model.timeline import Action, Timeline

_ENDLESS = 1 << 62  # larger than any block: closes the list of sizes

Kind = tuple[int, bool]
"""A pool: its stream, and whether it is that of small blocks."""
Excess = dict[int, int]
"""By the place of an event: bytes that come or go beyond what was needed, where a rest was too small to be cut off."""


def is_simple(timeline: Timeline, settings: Settings) -> bool:
    """Whether ``play`` does what ``CachingAllocator`` does on such a device."""
    waits = any(Action.FREE_REQUESTED.value in segment.action for segment in timeline.segments)
    return not (waits or settings.expandable_segments or settings.max_split_bytes)


def play(timeline: Timeline, settings: Settings, rules: Rules, max_steps: int) -> PlayResult:
    """Plays each stage of the schedule, and the last one until every pool ends it as it began."""
    blocks = timeline.blocks
    sizes = [round_size(size, settings.roundup_divisions, rules) for size in blocks.num_bytes]
    kinds = [(stream, size <= rules.small_request) for stream, size in zip(blocks.stream, sizes, strict=True)]
    indices = {index for _, stage in timeline.schedule for index in stage}
    masks = {kind: [other == kind for other in kinds] for kind in sorted(set(kinds))}
    parts = {index: _Part(timeline, index, sizes, masks) for index in indices}
    stages = [[parts[index] for index in stage] for _, stage in timeline.schedule]
    pools = {kind: Pool(settings, rules, is_small=kind[1]) for kind in masks}
    settled = [
        _settle(pool, [[part.events[kind] for part in stage] for stage in stages], max_steps)
        for kind, pool in pools.items()
    ]
    num_stages = max((len(excesses) for excesses, _ in settled), default=len(stages))
    allocated = requested = peak_allocated = peak_requested = 0
    for number in range(num_stages):
        for place, part in enumerate(stages[min(number, len(stages) - 1)]):
            excess: Excess = {}
            for excesses, _ in settled:
                excess |= excesses[min(number, len(excesses) - 1)][place]
            highest, allocated = part.allocated.over(allocated, excess)
            peak_allocated = max(peak_allocated, highest)
            highest, requested = part.requested.over(requested)
            peak_requested = max(peak_requested, highest)
    reserved = sum(pool.reserved_bytes for pool in pools.values())
    return PlayResult(
        peak_allocated_bytes=peak_allocated,
        peak_reserved_bytes=reserved,
        peak_requested_bytes=peak_requested,
        end_allocated_bytes=allocated,
        end_reserved_bytes=reserved,
        num_alloc_retries=0,
        num_steps=num_stages - len(stages) + 1,
        is_steady=all(is_steady for _, is_steady in settled),
        oom=None,
    )


class Events(NamedTuple):
    """What one pool sees of a segment: blocks, their bytes (negative: freed), and places among all pools' events."""

    blocks: Sequence[int]
    sizes: Sequence[int]
    places: Sequence[int]


class _Curve:
    """How a level moves with the events of a segment."""

    def __init__(self, changes: list[int]) -> None:
        self.changes = changes
        self.highest, self.end = _ends(changes)

    def over(self, level: int, excess: Excess | None = None) -> tuple[int, int]:
        """The highest level, and that at the end, from a level at the begin."""
        highest, end = self.highest, self.end
        if excess:
            changes = self.changes[:]
            for place, num_bytes in excess.items():
                changes[place] += num_bytes
            highest, end = _ends(changes)
        return level + highest, level + end


def _ends(changes: list[int]) -> tuple[int, int]:
    levels = list(accumulate(changes, initial=0))
    return max(levels), levels[-1]


class _Part:
    """A segment's events, for each pool and for all."""

    def __init__(self, timeline: Timeline, index: int, sizes: list[int], masks: dict[Kind, list[bool]]) -> None:
        actions, blocks, rows = columns(timeline, index)
        signs = [1 - 2 * action for action in actions]  # 1 where bytes come, -1 where they go
        changes = list(map(mul, signs, map(sizes.__getitem__, rows)))
        self.allocated = _Curve(changes)
        self.requested = _Curve(list(map(mul, signs, map(timeline.blocks.num_bytes.__getitem__, rows))))
        self.events: dict[Kind, Events] = {}
        for kind, mask in masks.items():
            chosen = [mask[row] for row in rows]
            self.events[kind] = Events(*(list(compress(column, chosen)) for column in (blocks, changes, count())))


def _settle(pool: Pool, stages: Sequence[Sequence[Events]], max_steps: int) -> tuple[list[list[Excess]], bool]:
    """The excess of each stage that had to be played, by segment, and whether all later ones are as the last."""
    *once, step = stages
    played = [[pool.play(events) for events in stage] for stage in once]
    picture = pool.picture()
    for _ in range(max_steps):
        played.append([pool.play(events) for events in step])
        before, picture = picture, pool.picture()
        if picture == before:
            return played, True
    return played, False


class Pool:
    """The free and the living blocks of one pool of one stream.

    Segments lie apart, so that blocks whose addresses meet are neighbours in one segment.
    """

    def __init__(self, settings: Settings, rules: Rules, *, is_small: bool) -> None:
        self.reserved_bytes = 0
        self._settings = settings
        self._rules = rules
        self._split_from = rules.small_remainder if is_small else rules.large_remainder
        self._addresses = Addresses()
        self._sizes = [_ENDLESS]  # of free blocks, and some of which none is left
        self._free: dict[int, list[int]] = {_ENDLESS: [0]}  # addresses by size
        self._sizes_at: dict[int, int] = {}  # of free blocks by address, and by the address behind them
        self._sizes_before: dict[int, int] = {}
        self._living: dict[int, tuple[int, int]] = {}  # address and bytes

    def play(self, events: Events) -> Excess:
        """Source: as ``CachingAllocator.malloc`` and ``free``, whose best fit is the lowest of the smallest."""
        sizes, free, living, split_from = self._sizes, self._free, self._living, self._split_from
        size_at, size_before = self._sizes_at, self._sizes_before
        excess: Excess = {}
        for key, size, place in zip(*events, strict=True):
            if size > 0:
                equal = free.get(size)
                if equal:
                    address = equal.pop(0)
                    del size_at[address], size_before[address + size]
                    living[key] = address, size
                    continue
                index = bisect_left(sizes, size)
                while not (larger := free[found := sizes[index]]):
                    del sizes[index], free[found]
                if found == _ENDLESS:
                    found, address = self._new_segment(size)
                else:
                    address = larger.pop(0)
                    del size_at[address]
                rest = found - size
                if rest < split_from:
                    size_before.pop(address + found, 0)
                    living[key] = address, found
                    if rest:
                        excess[place] = rest
                    continue
                living[key] = address, size
                address, size = address + size, rest
            else:
                address, found = living.pop(key)
                if found + size:
                    excess[place] = -found - size
                size = found
                if after := size_at.pop(address + size, 0):
                    free[after].remove(address + size)
                    size += after
                if before := size_before.pop(address, 0):
                    address -= before
                    free[before].remove(address)
                    size += before
            size_at[address] = size_before[address + size] = size
            if equal := free.get(size):
                insort(equal, address)
            elif equal is None:
                free[size] = [address]
                insort(sizes, size)
            else:
                equal.append(address)
        return excess

    def picture(self) -> object:
        """All that decides what comes next."""
        return self._sizes_at.copy(), self._living.copy()

    def _new_segment(self, size: int) -> tuple[int, int]:
        num_bytes = segment_size(size, self._settings.large_segment_bytes, self._rules)
        self.reserved_bytes += num_bytes
        return num_bytes, self._addresses.take(num_bytes, gap=self._rules.min_block)

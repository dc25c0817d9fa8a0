"""A small timeline of a played step: what is alive, by component, thinned without losing the highest."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from memprof.allocator.folded import deltas
from memprof.model.result import Table
from memprof.model.timeline import Component, Segment, Timeline

_COMPONENTS = tuple(Component)
_INDEX = {component: index for index, component in enumerate(_COMPONENTS)}


class Sample(NamedTuple):
    """The highest bytes alive while a segment was played for one layer; ``parts`` are in the order of Component."""

    stage: str
    phase: str
    segment: str
    layer: int
    requested_bytes: int
    parts: tuple[int, ...]


class _Lap(NamedTuple):
    """A segment played for one layer: change of the bytes alive up to their highest and to the end, whole and parts."""

    top: int
    top_parts: list[int]
    end: int
    end_parts: list[int]


def table(timeline: Timeline, most: int) -> Table:
    """At most ``most`` samples as the timeline of a Result, with a column for each component that is ever alive."""
    rows = samples(timeline, most)
    alive = [index for index in range(len(_COMPONENTS)) if any(row.parts[index] for row in rows)]
    return Table(
        columns=[*Sample._fields[:-1], *(_COMPONENTS[index].value for index in alive)],
        rows=[[*row[:-1], *(row.parts[index] for index in alive)] for row in rows],
    )


def samples(timeline: Timeline, most: int) -> list[Sample]:
    """At most ``most`` samples in playing order: of each stretch of segments and layers its highest, the first of them.

    Their parts sum to their requested bytes.
    """
    played = [
        (stage, timeline.segments[index])
        for stage, segments in timeline.schedule
        for index in segments
        if timeline.segments[index].action
    ]
    stride = max(-(-sum(_count(timeline, segment) for _, segment in played) // most), 1)
    cache: dict[int, list[_Lap]] = {}
    kept: list[Sample] = []
    now, parts, number = 0, [0] * len(_COMPONENTS), 0
    for stage, segment in played:
        laps = cache.get(id(segment)) or cache.setdefault(id(segment), list(_laps(timeline, segment)))
        op = segment.op[-1]
        phase = timeline.ops.phase[op].value if op >= 0 else stage
        for layer in range(_count(timeline, segment)):
            lap = laps[min(layer, len(laps) - 1)]
            top = now + lap.top
            is_new = number % stride == 0
            if is_new or top > kept[-1].requested_bytes:
                sample = Sample(stage, phase, segment.name, layer, top, _plus(parts, lap.top_parts))
                kept[len(kept) if is_new else -1 :] = [sample]
            now, parts, number = now + lap.end, list(_plus(parts, lap.end_parts)), number + 1
    return kept


def _count(timeline: Timeline, segment: Segment) -> int:
    return timeline.runs[segment.run].count if segment.run >= 0 else 1


def _laps(timeline: Timeline, segment: Segment) -> Iterator[_Lap]:
    """The first layer that is played, and each later one, which acts on its neighbour's body for a carry's entry."""
    carried = {entry: body for entry, body, _ in timeline.runs[segment.run].carries} if segment.run >= 0 else {}
    for number, changes in enumerate(deltas(timeline, segment, timeline.blocks.num_bytes)):
        levels = list(accumulate(changes))
        top = levels.index(max(levels))
        parts, top_parts = [0] * len(_COMPONENTS), (0,) * len(_COMPONENTS)
        for index, (block, change) in enumerate(zip(segment.block, changes, strict=True)):
            block = carried.get(block, block) if number else block
            parts[_INDEX[timeline.blocks.component[block]]] += change
            if index == top:
                top_parts = tuple(parts)
        yield _Lap(levels[top], list(top_parts), levels[-1], parts)


def _plus(left: list[int], right: list[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))

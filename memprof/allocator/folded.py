"""Peaks of a folded Timeline without unrolling it: cost does not grow with depth.

Within a run every layer makes the same events, so what is alive changes by the same amount from layer to layer (from
the second on, the first may meet a carry of another size); the highest point of a run is therefore in the first, the
second or the last layer that is played. ``tests`` hold it against the unrolled events.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import msgspec

from memprof.model.timeline import Action, Component, Segment, Timeline

_ALLOC, _REQUESTED = int(Action.ALLOC), int(Action.FREE_REQUESTED)


class Point(msgspec.Struct, frozen=True):
    """A place in the played schedule: stage, place in its list of segments, layer in playing order, event."""

    stage: int
    position: int
    layer: int
    event: int


class Peaks(msgspec.Struct, frozen=True):
    """The highest bytes alive, the first point that reaches them, the highest of each stage and each phase."""

    num_bytes: int
    point: Point
    stages: dict[str, int]
    phases: dict[str, int]


class Alive(msgspec.Struct, frozen=True):
    """Bytes alive at a point, by component, and by (module, component)."""

    components: dict[Component, int]
    modules: dict[tuple[str, Component], int]


class Place(msgspec.Struct, frozen=True):
    """Where a point is: phase, canonical module path, op."""

    phase: str
    module: str
    op: str


def describe(timeline: Timeline, point: Point) -> Place:
    """The op whose event is at ``point``."""
    segment = timeline.segments[timeline.schedule[point.stage][1][point.position]]
    op = segment.op[point.event]
    return Place(timeline.ops.phase[op].value, timeline.ops.module[op], timeline.ops.name[op])


def peaks(timeline: Timeline, rounding: int = 1) -> Peaks:
    """Plays the folded schedule; each block counts as its size rounded up to a multiple of ``rounding`` bytes."""
    sizes = timeline.blocks.num_bytes
    if rounding > 1:
        sizes = [-(-size // rounding) * rounding for size in sizes]
    phase_of = timeline.ops.phase
    cache: dict[int, list[list[int]]] = {}
    now = best = 0
    where = Point(0, 0, 0, -1)
    stages: dict[str, int] = {}
    phases: dict[str, int] = {}
    for stage, (name, segments) in enumerate(timeline.schedule):
        highest = now
        for position, index in enumerate(segments):
            segment = timeline.segments[index]
            if not segment.action:
                continue
            laps = cache.get(index)
            if laps is None:
                laps = cache[index] = [list(accumulate(d)) for d in deltas(timeline, segment, sizes)]
            count = timeline.runs[segment.run].count if segment.run >= 0 else 1
            reached = now
            for layer, lap in _laps(laps, count):
                base = now if layer == 0 else now + laps[0][-1] + (layer - 1) * laps[1][-1]
                top = base + max(lap)
                if top > best:
                    best = top
                    where = Point(stage, position, layer, lap.index(top - base))
                if top > reached:
                    reached = top
            now += laps[0][-1] + (count - 1) * (laps[1][-1] if len(laps) > 1 else laps[0][-1])
            if reached > highest:
                highest = reached
            phase = phase_of[segment.op[-1]].value if segment.op[-1] >= 0 else name
            if reached > phases.get(phase, 0):
                phases[phase] = reached
        stages[name] = max(highest, stages.get(name, 0))
    return Peaks(best, where, stages, phases)


def _laps(laps: list[list[int]], count: int) -> Iterator[tuple[int, list[int]]]:
    yield 0, laps[0]
    if count > 1:
        yield 1, laps[1]
    if count > 2:
        yield count - 1, laps[1]


def deltas(timeline: Timeline, segment: Segment, sizes: list[int]) -> list[list[int]]:
    """The change of each event: in the first layer that is played, and (for a run) in each later one.

    ``sizes`` of a block count it once; an event outside a run that names a block of the run acts on every layer's.
    """
    if segment.run < 0:
        sizes = _everywhere(timeline, segment, sizes)
        return [_signed(segment, sizes)]
    first = _signed(segment, sizes)
    carries = timeline.runs[segment.run].carries
    if all(sizes[entry] == sizes[body] for entry, body, _ in carries):
        return [first, first]
    later = list(sizes)
    for entry, body, _ in carries:
        later[entry] = sizes[body]
    return [first, _signed(segment, later)]


def _signed(segment: Segment, sizes: list[int]) -> list[int]:
    if _REQUESTED in segment.action:
        return [
            sizes[block] if action == _ALLOC else 0 if action == _REQUESTED else -sizes[block]
            for action, block in zip(segment.action, segment.block, strict=True)
        ]
    return [
        -sizes[block] if action else sizes[block] for action, block in zip(segment.action, segment.block, strict=True)
    ]


def _everywhere(timeline: Timeline, segment: Segment, sizes: list[int]) -> list[int]:
    """Sizes in which a block of a run counts for all its layers, but a carry's body for one."""
    home, segments, runs = timeline.blocks.segment, timeline.segments, timeline.runs
    inside = {block for block in segment.block if segments[home[block]].run >= 0}
    if not inside:
        return sizes
    sizes = list(sizes)
    for block in inside:
        run = runs[segments[home[block]].run]
        if not any(body == block for _, body, _ in run.carries):
            sizes[block] *= run.count
    return sizes


def alive(timeline: Timeline, point: Point) -> Alive:
    """What is alive just after the event at ``point``; requested bytes."""
    sizes, component = timeline.blocks.num_bytes, timeline.blocks.component
    maker = _makers(timeline)
    module = timeline.ops.module
    held: dict[int, int] = {}

    def add(segment: Segment, lap: list[int], times: int, later: bool) -> None:
        """Events of later layers act on the neighbour's body where they name a carry's entry."""
        carried: dict[int, int] = {}
        if later:
            carried = {entry: body for entry, body, _ in timeline.runs[segment.run].carries}
        for block, change in zip(segment.block, lap, strict=False):  # the last lap may be cut off
            if change:
                block = carried.get(block, block)
                held[block] = held.get(block, 0) + change * times

    for stage, (_, segments) in enumerate(timeline.schedule):
        for position, index in enumerate(segments):
            segment = timeline.segments[index]
            if not segment.action:
                continue
            laps = deltas(timeline, segment, sizes)
            here = stage == point.stage and position == point.position
            count = timeline.runs[segment.run].count if segment.run >= 0 else 1
            whole = point.layer if here else count
            if whole:
                add(segment, laps[0], 1, False)
            if whole > 1:
                add(segment, laps[1], whole - 1, True)
            if here:
                lap = laps[0] if point.layer == 0 else laps[1]
                add(segment, lap[: point.event + 1], 1, point.layer > 0)
                return _sum_up(held, component, maker, module)
    return _sum_up(held, component, maker, module)


def _makers(timeline: Timeline) -> dict[int, int]:
    """Block to the op that allocated it."""
    return {
        block: op
        for segment in timeline.segments
        for action, block, op in zip(segment.action, segment.block, segment.op, strict=True)
        if action == _ALLOC
    }


def _sum_up(held: dict[int, int], component: list[Component], maker: dict[int, int], module: list[str]) -> Alive:
    components: dict[Component, int] = {}
    modules: dict[tuple[str, Component], int] = {}
    for block, num_bytes in held.items():
        if num_bytes:
            kind = component[block]
            components[kind] = components.get(kind, 0) + num_bytes
            op = maker[block]
            key = (module[op] if op >= 0 else "", kind)
            modules[key] = modules.get(key, 0) + num_bytes
    return Alive(components, modules)

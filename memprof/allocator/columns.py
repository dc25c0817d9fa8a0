"""The flat events of a Timeline's segments as columns, made layer by layer instead of event by event."""

from __future__ import annotations

from itertools import compress
from typing import NamedTuple

from memprof.model.timeline import Segment, Timeline, instances


class Columns(NamedTuple):
    """One entry an event: its action; the block, unique among those alive; and that block's row in the recording."""

    actions: list[int]
    blocks: list[int]
    rows: list[int]


def columns(timeline: Timeline, index: int) -> Columns:
    """The events of ``unroll_segment``."""
    segment, sizes = timeline.segments[index], timeline.blocks.num_bytes
    made = _alone(timeline, segment) if segment.run < 0 else _layers(timeline, segment)
    if 0 in sizes:  # what takes no bytes never reaches the allocator
        taken = [sizes[row] for row in made.rows]
        return Columns(*(list(compress(column, taken)) for column in made))
    return made


def _alone(timeline: Timeline, segment: Segment) -> Columns:
    width, homes = len(timeline.blocks.num_bytes), timeline.blocks.segment
    actions: list[int] = []
    blocks: list[int] = []
    rows: list[int] = []
    for action, row in zip(segment.action, segment.block, strict=True):
        if timeline.segments[homes[row]].run < 0:
            actions.append(action)
            blocks.append(row)
            rows.append(row)
        else:
            keys = list(instances(timeline, row, homes[row], width))
            actions += [action] * len(keys)
            blocks += keys
            rows += [row] * len(keys)
    return Columns(actions, blocks, rows)


def _layers(timeline: Timeline, segment: Segment) -> Columns:
    width, homes = len(timeline.blocks.num_bytes), timeline.blocks.segment
    run = timeline.runs[segment.run]
    carries = {entry: (body, way) for entry, body, way in run.carries}
    carried = [(place, *carries[row]) for place, row in enumerate(segment.block) if row in carries]
    is_own = [timeline.segments[home].run == segment.run for home in homes]
    strides = [width if is_own[row] and row not in carries else 0 for row in segment.block]
    blocks: list[int] = []
    rows = segment.block * run.count
    for layer in range(run.count) if segment.order > 0 else range(run.count - 1, -1, -1):
        start = len(blocks)
        blocks += [row + layer * stride for row, stride in zip(segment.block, strides, strict=True)]
        for place, body, way in carried:
            if 0 <= layer - way < run.count:
                rows[start + place] = body
                blocks[start + place] = body + (layer - way) * width
    return Columns(segment.action * run.count, blocks, rows)

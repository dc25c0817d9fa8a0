"""A Timeline: the ops of a step and the allocation events they caused, in columns, identical layers folded.

Three engines write it and everything else reads it. Events are grouped into *segments* that were recorded once (the
stem's forward, one layer's forward, ...); a *schedule* says in which order segments are played, so a segment of the
training step serves every step. A segment of a *run* stands for one of ``count`` identical layers and is played for
each of them. ``unroll`` gives the flat events that the allocator sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, IntEnum
from typing import NamedTuple

import msgspec


class Component(str, Enum):
    """What a block is for. The values are the keys of ``at_peak_bytes``."""

    WEIGHTS = "weights"
    BUFFERS = "buffers"
    GRADIENTS = "gradients"
    OPTIMIZER_STATES = "optimizer_states"
    ACTIVATIONS = "activations"
    TEMPORARIES = "temporaries"
    COMMUNICATION = "communication"
    KV_CACHE = "kv_cache"
    INPUTS = "inputs"
    WORKSPACE = "workspace"


class Phase(str, Enum):
    LOAD = "load"
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"
    PREFILL = "prefill"
    DECODE = "decode"


class Action(IntEnum):
    """What an event does to its block. ``FREE`` is a request that completes at once (the usual case on one stream)."""

    ALLOC = 0
    FREE = 1
    FREE_REQUESTED = 2
    FREE_COMPLETED = 3


class Event(NamedTuple):
    """One unrolled event; ``block`` is unique among the blocks that are alive."""

    action: int
    block: int
    num_bytes: int
    stream: int
    op: int


class Ops(msgspec.Struct, frozen=True):
    """Columns, one entry an op: ATen or kernel name, module path (layer index starred), phase, FLOPs, bytes moved."""

    name: list[str]
    module: list[str]
    phase: list[Phase]
    flops: list[int]
    bytes_moved: list[int]


class Blocks(msgspec.Struct, frozen=True):
    """Columns, one entry a recorded block: requested bytes, component, stream, the segment that allocates it.

    A block of no bytes is a place-holder of the folding; it causes no event.
    """

    num_bytes: list[int]
    component: list[Component]
    stream: list[int]
    segment: list[int]


class Run(msgspec.Struct, frozen=True):
    """``count`` identical layers. ``carries`` pairs what a layer receives with what its neighbour hands on.

    In a segment of this run, played for layer ``i``, the block ``entry`` stands for itself at the first layer that is
    played and for ``body`` of the layer played before it at every later one: the residual stream in forward order,
    its gradient in backward order. ``body`` named by a segment outside the run is that of the layer played last.
    """

    name: str
    count: int
    carries: tuple[tuple[int, int, int], ...]  # (entry block, body block, +1 forward | -1 backward)


class Segment(msgspec.Struct, frozen=True):
    """A recorded stretch of events; columns of equal length.

    ``run`` is an index into ``Timeline.runs`` or -1; ``order`` is +1 where layers are visited first to last. An event
    of a segment outside a run that names a block of the run (not a carry) acts on that block of *every* layer.
    """

    name: str
    run: int
    order: int
    action: list[int]
    block: list[int]
    op: list[int]


class Timeline(msgspec.Struct, frozen=True):
    """See the module. ``schedule`` holds (stage name, segment indices): ``load``, ``first_step``, ``step``."""

    ops: Ops
    blocks: Blocks
    segments: list[Segment]
    runs: list[Run]
    schedule: list[tuple[str, list[int]]]

    def unroll(self) -> Iterator[Event]:
        """Flat events in the order in which the allocator sees them; cost grows with depth.

        Block ids are ``recorded block + layer * number of recorded blocks``, so a block's recorded row is
        ``event.block % len(blocks.num_bytes)``.
        """
        for _, segments in self.schedule:
            for index in segments:
                yield from unroll_segment(self, index)


def unroll_segment(timeline: Timeline, index: int) -> Iterator[Event]:
    """The flat events of one segment, played for each of its layers."""
    segment = timeline.segments[index]
    width = len(timeline.blocks.num_bytes)
    size, stream, home = timeline.blocks.num_bytes, timeline.blocks.stream, timeline.blocks.segment
    if segment.run < 0:
        for action, block, op in zip(segment.action, segment.block, segment.op, strict=True):
            if size[block]:
                for key in instances(timeline, block, home[block], width):
                    yield Event(action, key, size[block], stream[block], op)
        return
    run = timeline.runs[segment.run]
    carry = {entry: (body, way) for entry, body, way in run.carries}
    layers = range(run.count) if segment.order > 0 else range(run.count - 1, -1, -1)
    for layer in layers:
        for action, block, op in zip(segment.action, segment.block, segment.op, strict=True):
            recorded = key = block
            if block in carry:
                body, way = carry[block]
                before = layer - way
                if 0 <= before < run.count:
                    recorded, key = body, body + before * width
            elif timeline.segments[home[block]].run == segment.run:
                key = block + layer * width
            if size[recorded]:
                yield Event(action, key, size[recorded], stream[recorded], op)


def instances(timeline: Timeline, block: int, home: int, width: int) -> Iterator[int]:
    """The blocks that an event outside runs means by ``block``, which segment ``home`` allocates."""
    run_index = timeline.segments[home].run
    if run_index < 0:
        yield block
        return
    run = timeline.runs[run_index]
    for _, body, way in run.carries:
        if body == block:
            yield block + (run.count - 1 if way > 0 else 0) * width
            return
    yield from range(block, block + run.count * width, width)

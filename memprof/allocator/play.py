"""Play a Timeline: load, first step, and steps until the picture repeats, for what is allocated and reserved."""

from __future__ import annotations

from itertools import compress

import msgspec

from memprof.allocator.blocks import Block
from memprof.allocator.native import CachingAllocator
from memprof.allocator.oom import OutOfMemoryError
from memprof.allocator.plain import PlainAllocator, is_plain
from memprof.allocator.rules import RULES, Rules
from memprof.allocator.settings import DEFAULTS, Settings
from memprof.model.timeline import Action, Timeline, unroll_segment

# A step that has not come back to its own picture by then is cut off; training loops do so after two or three.
MAX_STEPS = 8

# action, block, bytes, stream: each of all events
_Columns = tuple[list[int], list[int], list[int], list[int]]


class PlayResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the simulator saw over all that was played; bytes.

    Attributes:
        num_steps: how often the last stage was played.
        is_steady: the last step ended as it began, so that every later one is the same.
        oom: the request that failed, at which playing stopped; None where all were served.
    """

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    peak_requested_bytes: int
    end_allocated_bytes: int
    end_reserved_bytes: int
    num_alloc_retries: int
    num_steps: int
    is_steady: bool
    oom: OutOfMemoryError | None


def play(
    timeline: Timeline,
    settings: Settings = DEFAULTS,
    *,
    device_bytes: int | None = None,
    other_bytes: int = 0,
    max_steps: int = MAX_STEPS,
    rules: Rules = RULES,
) -> PlayResult:
    """Play each stage of the schedule in order, and the last one until it ends in the state in which it began.

    Args:
        device_bytes: the device's total; None: it never runs out.
        other_bytes: what CUDA's context, communicators and other processes hold of it.
    """
    waits = any(Action.FREE_REQUESTED.value in segment.action for segment in timeline.segments)
    kind = PlainAllocator if is_plain(settings) and not waits else CachingAllocator
    allocator = kind(settings, device_bytes=device_bytes, other_bytes=other_bytes, rules=rules)
    live: dict[int, Block] = {}
    unrolled: dict[int, _Columns] = {}
    oom: OutOfMemoryError | None = None
    num_steps = 0
    is_steady = False
    try:
        for _, segments in timeline.schedule[:-1]:
            _play_stage(timeline, segments, unrolled, allocator, live)
        picture = _picture(allocator, live)
        for _, segments in timeline.schedule[-1:] * max_steps:
            num_steps += 1
            _play_stage(timeline, segments, unrolled, allocator, live)
            before, picture = picture, _picture(allocator, live)
            is_steady = before == picture
            if is_steady:
                break
    except OutOfMemoryError as error:
        oom = error
    return PlayResult(
        peak_allocated_bytes=allocator.stats.together.bytes,
        peak_reserved_bytes=allocator.stats.reserved_bytes[0].peak,
        peak_requested_bytes=allocator.stats.together.requested,
        end_allocated_bytes=allocator.allocated_bytes,
        end_reserved_bytes=allocator.reserved_bytes,
        num_alloc_retries=allocator.stats.num_alloc_retries,
        num_steps=num_steps,
        is_steady=is_steady,
        oom=oom,
    )


def _play_stage(
    timeline: Timeline,
    segments: list[int],
    unrolled: dict[int, _Columns],
    allocator: CachingAllocator,
    live: dict[int, Block],
) -> None:
    """Feed the flat events of some segments to the allocator; ``unrolled`` keeps those that were met before."""
    malloc, free = allocator.malloc, allocator.free
    alloc_action, free_action, request_action = Action.ALLOC.value, Action.FREE.value, Action.FREE_REQUESTED.value
    for segment in segments:
        columns = unrolled.get(segment)
        if columns is None:
            columns = unrolled[segment] = _columns(timeline, segment)
        for action, key, num_bytes, stream in zip(*columns, strict=True):
            if action == alloc_action:
                live[key] = malloc(num_bytes, stream)
            elif action == free_action:
                free(live.pop(key))
            elif action == request_action:
                allocator.request_free(live[key])
            else:
                allocator.complete_free(live.pop(key))


def _columns(timeline: Timeline, index: int) -> _Columns:
    """The events of ``unroll_segment`` as columns, made layer by layer instead of event by event."""
    segment, blocks = timeline.segments[index], timeline.blocks
    width = len(blocks.num_bytes)
    if segment.run < 0:
        pairs = [event[:2] for event in unroll_segment(timeline, index)]
        actions, keys = [action for action, _ in pairs], [key for _, key in pairs]
    else:
        run = timeline.runs[segment.run]
        carries = {entry: (body, way) for entry, body, way in run.carries}
        carried = [(place, *carries[block]) for place, block in enumerate(segment.block) if block in carries]
        is_own = [timeline.segments[home].run == segment.run for home in blocks.segment]
        strides = [width if is_own[block] and block not in carries else 0 for block in segment.block]
        actions, keys = segment.action * run.count, []
        for layer in range(run.count) if segment.order > 0 else range(run.count - 1, -1, -1):
            start = len(keys)
            keys += [block + layer * stride for block, stride in zip(segment.block, strides, strict=True)]
            for place, body, way in carried:
                if 0 <= layer - way < run.count:
                    keys[start + place] = body + (layer - way) * width
    recorded = [key % width for key in keys]
    sizes = [blocks.num_bytes[block] for block in recorded]
    columns = actions, keys, sizes, [blocks.stream[block] for block in recorded]
    if 0 in sizes:  # what takes no bytes never reaches the allocator
        actions, keys, sizes, streams = (list(compress(column, sizes)) for column in columns)
        return actions, keys, sizes, streams
    return columns


def _picture(allocator: CachingAllocator, live: dict[int, Block]) -> object:
    """All that decides what the next step will do: the free blocks, and where the living ones are."""
    return allocator.free_picture(), {key: block.address for key, block in live.items()}

"""Play a Timeline: load, first step, and steps until the picture repeats, for what is allocated and reserved."""

from __future__ import annotations

from memprof.allocator import unlimited
from memprof.allocator.blocks import Block
from memprof.allocator.columns import Columns, columns
from memprof.allocator.native import CachingAllocator
from memprof.allocator.oom import OutOfMemoryError
from memprof.allocator.plain import PlainAllocator, is_plain
from memprof.allocator.result import PlayResult
from memprof.allocator.rules import RULES, Rules
from memprof.allocator.settings import DEFAULTS, Settings
from memprof.model.timeline import Action, Timeline

# A step that has not come back to its own picture by then is cut off; training loops do so after two or three.
MAX_STEPS = 8


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
    if device_bytes is None and unlimited.is_simple(timeline, settings):
        return unlimited.play(timeline, settings, rules, max_steps)
    waits = any(Action.FREE_REQUESTED.value in segment.action for segment in timeline.segments)
    kind = PlainAllocator if is_plain(settings) and not waits else CachingAllocator
    allocator = kind(settings, device_bytes=device_bytes, other_bytes=other_bytes, rules=rules)
    live: dict[int, Block] = {}
    unrolled: dict[int, Columns] = {}
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
    unrolled: dict[int, Columns],
    allocator: CachingAllocator,
    live: dict[int, Block],
) -> None:
    """Feed the flat events of some segments to the allocator; ``unrolled`` keeps those that were met before."""
    malloc, free = allocator.malloc, allocator.free
    alloc_action, free_action, request_action = Action.ALLOC.value, Action.FREE.value, Action.FREE_REQUESTED.value
    sizes, streams = timeline.blocks.num_bytes, timeline.blocks.stream
    for segment in segments:
        events = unrolled.get(segment)
        if events is None:
            events = unrolled[segment] = columns(timeline, segment)
        for action, key, row in zip(*events, strict=True):
            if action == alloc_action:
                live[key] = malloc(sizes[row], streams[row])
            elif action == free_action:
                free(live.pop(key))
            elif action == request_action:
                allocator.request_free(live[key])
            else:
                allocator.complete_free(live.pop(key))


def _picture(allocator: CachingAllocator, live: dict[int, Block]) -> object:
    """All that decides what the next step will do: the free blocks, and where the living ones are."""
    return allocator.free_picture(), {key: block.address for key, block in live.items()}

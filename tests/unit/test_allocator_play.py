from __future__ import annotations

import pytest

from memprof.allocator import CachingAllocator, OutOfMemoryError, Settings, play, replay
from memprof.allocator.columns import columns
from memprof.model.timeline import Action, Blocks, Component, Ops, Phase, Run, Segment, Timeline, unroll_segment
from memprof.tapes import tape_of
from memprof.units import GiB, MiB
from tests.support.timelines import layered_timeline

SMALL = layered_timeline(4, hidden=512, width=1376, tokens=256, vocab=1000)


def _timeline(rows: list[tuple[int, int]], sizes: list[int], step: list[tuple[int, int]]) -> Timeline:
    segments = [
        Segment(name, -1, 1, [action for action, _ in events], [block for _, block in events], [0] * len(events))
        for name, events in (("load", rows), ("step", step))
    ]
    return Timeline(
        Ops(["op"], [""], [Phase.LOAD], [0], [0]),
        Blocks(sizes, [Component.TEMPORARIES] * len(sizes), [0] * len(sizes), [0] * len(sizes)),
        segments,
        [],
        [("load", [0]), ("step", [1])],
    )


def test_playing_is_feeding_the_unrolled_events() -> None:
    once = play(SMALL, max_steps=1)
    result = replay(tape_of(SMALL, name="small"))
    assert once.peak_reserved_bytes == result.peak_reserved_bytes
    assert once.peak_allocated_bytes == result.peak_allocated_bytes
    assert once.peak_requested_bytes == result.peak_requested_bytes
    assert once.end_reserved_bytes == result.end_reserved_bytes


def test_steps_stop_when_one_ends_as_it_began() -> None:
    result = play(SMALL)
    assert result.is_steady
    assert 1 <= result.num_steps < 8
    assert play(SMALL, max_steps=result.num_steps + 3) == result


def test_more_steps_change_nothing_once_steady() -> None:
    result = play(SMALL)
    stages = [*SMALL.schedule, *[SMALL.schedule[-1]] * 5]
    longer = Timeline(SMALL.ops, SMALL.blocks, SMALL.segments, SMALL.runs, stages)
    assert play(longer).peak_reserved_bytes == result.peak_reserved_bytes


def test_a_step_that_leaks_is_never_steady() -> None:
    leak = _timeline([], [30 * MiB], [(Action.ALLOC.value, 0)])
    result = play(leak)
    assert (result.num_steps, result.is_steady, result.end_allocated_bytes) == (8, False, 240 * MiB)


def test_frees_that_wait_keep_memory_from_the_next_request() -> None:
    alloc, request, complete = Action.ALLOC.value, Action.FREE_REQUESTED.value, Action.FREE_COMPLETED.value
    step = [(alloc, 0), (request, 0), (alloc, 1), (complete, 0), (request, 1), (complete, 1)]
    result = play(_timeline([], [30 * MiB, 30 * MiB], step))
    assert (result.peak_allocated_bytes, result.peak_reserved_bytes) == (30 * MiB, 60 * MiB)


def test_what_takes_no_bytes_is_left_out() -> None:
    alloc, free = Action.ALLOC.value, Action.FREE.value
    result = play(_timeline([], [0, 512], [(alloc, 0), (alloc, 1), (free, 0), (free, 1)]))
    assert (result.peak_allocated_bytes, result.is_steady) == (512, True)


def test_a_device_that_is_too_small_is_told_with_the_request() -> None:
    roomy = play(SMALL)
    result = play(SMALL, device_bytes=roomy.peak_reserved_bytes // 2)
    assert result.oom is not None
    assert isinstance(result.oom, OutOfMemoryError)
    assert result.oom.requested_bytes > 0
    assert result.peak_reserved_bytes <= roomy.peak_reserved_bytes // 2


def test_what_others_hold_is_not_there_to_take() -> None:
    roomy = play(SMALL)
    assert play(SMALL, device_bytes=roomy.peak_reserved_bytes).oom is None
    assert play(SMALL, device_bytes=roomy.peak_reserved_bytes + 1 * GiB, other_bytes=1 * GiB).oom is None
    squeezed = play(SMALL, device_bytes=roomy.peak_allocated_bytes, other_bytes=2 * MiB)
    assert squeezed.oom is not None


def test_expandable_segments_reserve_no_more_than_a_page_above_what_is_needed() -> None:
    result = play(SMALL, Settings(expandable_segments=True))
    assert result.peak_allocated_bytes <= result.peak_reserved_bytes <= play(SMALL).peak_reserved_bytes


def test_a_larger_batch_never_allocates_less() -> None:
    peaks = [
        play(layered_timeline(3, hidden=512, width=1376, tokens=tokens, vocab=1000)).peak_allocated_bytes
        for tokens in (64, 128, 256, 512)
    ]
    assert peaks == sorted(peaks)


def test_an_allocator_frees_a_block_once_only() -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(1)
    allocator.free(block)
    for again in (allocator.free, allocator.request_free):
        with pytest.raises(ValueError, match="is not allocated"):
            again(block)


def test_columns_are_the_unrolled_events() -> None:
    carrying = Timeline(
        Ops(["op"], [""], [Phase.LOAD], [0], [0]),
        Blocks([512, 1024, 2048, 0, 4096], [Component.TEMPORARIES] * 5, [0, 0, 1, 0, 0], [0, 1, 1, 1, 0]),
        [
            Segment("stem", -1, 1, [0, 0], [0, 4], [0, 0]),
            Segment("layer", 0, 1, [0, 0, 0, 1, 1], [1, 2, 3, 0, 4], [0] * 5),
            Segment("back", 0, -1, [1, 1], [1, 3], [0, 0]),
            Segment("all", -1, 1, [1], [2], [0]),
        ],
        [Run("layers", 3, ((0, 1, 1),))],
        [("step", [0, 1, 2, 3])],
    )
    for timeline in (carrying, SMALL):
        for index in range(len(timeline.segments)):
            width = len(timeline.blocks.num_bytes)
            unrolled = [
                (event.action, event.block, event.block % width)
                for event in unroll_segment(timeline, index)
                if event.num_bytes
            ]
            assert list(zip(*columns(timeline, index), strict=True)) == unrolled


def test_what_grows_old_is_not_steady() -> None:
    alloc, free = Action.ALLOC.value, Action.FREE.value
    idle_then_busy = _timeline([(alloc, 0), (free, 0)], [50 * MiB, 30 * MiB], [(alloc, 1), (free, 1)])
    settings = Settings(garbage_collection_threshold=0.9, memory_fraction=1.0, max_split_bytes=32 * MiB)
    assert not play(idle_then_busy, settings, device_bytes=1 * GiB).is_steady
    assert play(idle_then_busy, settings).is_steady

"""A device that never runs out, played pool by pool, against the allocator that plays every event in turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memprof.allocator import parse_conf, play
from memprof.allocator.unlimited import is_simple
from memprof.model.timeline import Action, Blocks, Component, Ops, Phase, Segment, Timeline
from memprof.units import KiB, MiB, TiB

SIZES = (1, 513, 4 * KiB, 1 * MiB, 1 * MiB + 1, 3 * MiB, 9 * MiB, 10 * MiB, 19 * MiB + 5, 20 * MiB, 33 * MiB, 41 * MiB)
CONFS = ("", "large_segment_size_mb:40", "roundup_power2_divisions:4", "garbage_collection_threshold:0.5")
MOVES = st.lists(st.one_of(st.none(), st.integers(0, len(SIZES) - 1)), min_size=5, max_size=60)

ALLOC, FREE = Action.ALLOC.value, Action.FREE.value


def _timeline(load: list[int], steps: list[list[int | None]], order: int, leaks: bool) -> Timeline:
    """What stays, and segments of a step whose moves are requests by size, or (None) a free of some living block."""
    sizes: list[int] = []
    segments: list[list[tuple[int, int]]] = [[]]
    living: list[int] = []

    def request(kind: int) -> None:
        segments[-1].append((ALLOC, len(sizes)))
        living.append(len(sizes))
        sizes.append(SIZES[kind])

    for kind in load:
        request(kind)
    living.clear()
    for moves in steps:
        segments.append([])
        for move in moves:
            if move is not None:
                request(move)
            elif living:
                segments[-1].append((FREE, living.pop(order * len(sizes) % len(living))))
    if not leaks:
        segments[-1] += [(FREE, block) for block in living]
    step = list(range(1, len(segments)))
    streams = [block % 7 // 5 for block in range(len(sizes))]
    return Timeline(
        Ops(["op"], [""], [Phase.LOAD], [0], [0]),
        Blocks(sizes, [Component.TEMPORARIES] * len(sizes), streams, [0] * len(sizes)),
        [_segment(events) for events in segments],
        [],
        [("load", [0]), ("first_step", step), ("step", step)],
    )


def _segment(events: list[tuple[int, int]]) -> Segment:
    return Segment("", -1, 1, [action for action, _ in events], [block for _, block in events], [0] * len(events))


@given(
    st.lists(st.integers(0, len(SIZES) - 1), max_size=10),
    st.lists(MOVES, min_size=1, max_size=4),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from(CONFS),
)
def test_every_figure_is_that_of_the_whole_allocator(
    load: list[int], steps: list[list[int | None]], order: int, leaks: bool, conf: str
) -> None:
    timeline, settings = _timeline(load, steps, order, leaks), parse_conf(conf)
    assert is_simple(timeline, settings)
    assert play(timeline, settings) == play(timeline, settings, device_bytes=1 * TiB)


def test_a_rest_that_is_too_small_to_be_cut_off_is_allocated() -> None:
    timeline = _timeline([], [[8, None]], 1, False)  # 19 MiB and a little of a large segment of 20 MiB
    result = play(timeline)
    assert result.peak_allocated_bytes == 20 * MiB
    assert result.peak_requested_bytes == 19 * MiB + 5


def test_what_one_pool_decides_by_another_is_not_simple() -> None:
    timeline = _timeline([3], [[1, None]], 1, False)
    for conf in ("expandable_segments:True", "max_split_size_mb:64"):
        assert not is_simple(timeline, parse_conf(conf))

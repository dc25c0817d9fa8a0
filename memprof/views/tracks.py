"""A tape as counters and spans over time: what the Chrome and the Perfetto exporters both draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memprof.allocator.layout import Layout, lay_out
from memprof.model.tape import Tape

ALLOCATED, RESERVED = "allocated bytes", "reserved bytes"
_SIGNS = {"segment_alloc": 1, "segment_map": 1, "segment_free": -1, "segment_unmap": -1}


class Level(NamedTuple):
    """A counter's value from a moment on; microseconds and bytes."""

    time_us: int
    counter: str
    value: int


class Span(NamedTuple):
    """A block's life; its name is the op that asked for it, its group the component or else the phase."""

    start_us: int
    end_us: int
    group: str
    name: str
    num_bytes: int
    module: str
    source: str


class Tracks(NamedTuple):
    """Everything to be drawn of one device; both lists are in order of time."""

    title: str
    device: int
    levels: list[Level]
    spans: list[Span]


def tracks_of(tape: Tape, *, device_bytes: int | None = None) -> Tracks:
    """The tape's counters and spans, segments as the simulator has them.

    Where no times were recorded, event number n happens at n microseconds.
    """
    layout = lay_out(tape, device_bytes=device_bytes)
    times = layout.tape.events.time_us or list(range(len(layout.addresses)))
    start, end = (times[0], times[-1]) if times else (0, 0)
    lives = _lives(layout)
    spans = [
        _span(layout, block, times[a] if a >= 0 else start, times[b] if b is not None else end, a)
        for block, (a, b) in lives.items()
    ]
    return Tracks(tape.name, tape.device, list(_levels(layout, times, start)), sorted(spans))


def _lives(layout: Layout) -> dict[int, tuple[int, int | None]]:
    """Each block's first and last event; -1 and None where the tape has none."""
    lives: dict[int, tuple[int, int | None]] = dict.fromkeys(layout.initial, (-1, None))
    events = zip(layout.tape.column("action"), layout.tape.events.block, strict=True)
    for index, (action, block) in enumerate(events):
        if block is None:
            continue
        if action == "alloc":
            lives[block] = (index, None)
        elif lives[block][1] is None:
            lives[block] = (lives[block][0], index)
    return lives


def _levels(layout: Layout, times: list[int], start: int) -> Iterator[Level]:
    tape = layout.tape
    allocated = sum(layout.sizes[block] for block in layout.initial)
    reserved = sum(segment.size for segment in tape.initial_segments)
    yield Level(start, ALLOCATED, allocated)
    yield Level(start, RESERVED, reserved)
    for index, (action, block) in enumerate(zip(tape.column("action"), tape.events.block, strict=True)):
        if action in _SIGNS:
            reserved += _SIGNS[action] * tape.events.size[index]
            yield Level(times[index], RESERVED, reserved)
        elif block is not None and action in ("alloc", "free_requested"):
            allocated += layout.sizes[block] if action == "alloc" else -layout.sizes[block]
            yield Level(times[index], ALLOCATED, allocated)


def _span(layout: Layout, block: int, start_us: int, end_us: int, event: int) -> Span:
    def text(column: str) -> str:
        indices = getattr(layout.tape.events, column)
        return layout.tape.names[indices[event]] if indices and event >= 0 else ""

    return Span(
        start_us=start_us,
        end_us=end_us,
        group=text("component") or text("phase") or "before the recording",
        name=text("op") or "block",
        num_bytes=layout.sizes[block],
        module=text("module"),
        source=text("site"),
    )

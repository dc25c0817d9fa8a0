"""A program traced under CUDA's Semantics as events that can be laid beside a tape's."""

from __future__ import annotations

import gc
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch._subclasses.fake_tensor import FakeTensorMode

from memprof.model.tape import Tape
from memprof.semantics.device import Semantics
from memprof.trace.attribution import Attribution
from memprof.trace.cuda_device import CudaDevice
from memprof.trace.recorder import Recorder


class Event(NamedTuple):
    """Bytes taken (positive) or given back, and the outermost ATen op that took them."""

    num_bytes: int
    op: str


def traced(sem: Semantics, program: Callable[[], Any]) -> list[Event]:
    """The events of a program; what it returns is kept until it ends."""
    card = CudaDevice(sem)
    recorder = Recorder(Attribution(), card.kernel, host_is_free=True)
    gc.disable()
    try:
        with FakeTensorMode(), recorder, card.ways(recorder):
            kept = program()
        recorder.close()
        del kept
    finally:
        gc.enable()
    starts = [op.first_event for op in recorder.ops]
    return [
        Event(size if event >= 0 else -size, recorder.ops[bisect_right(starts, index) - 1].name.removeprefix("aten::"))
        for index, event in enumerate(recorder.events)
        for size in (recorder.lives[event if event >= 0 else ~event].num_bytes,)
    ]


def recorded(tape: Tape) -> list[Event]:
    """A tape's events."""
    signs = {"alloc": 1, "free_completed": -1}
    rows = zip(tape.column("action"), tape.events.size, tape.column("outer_op"), strict=True)
    return [Event(signs[action] * size, op) for action, size, op in rows if action in signs]


def peak_bytes(events: Iterable[Event], start_bytes: int = 0) -> int:
    now = peak = start_bytes
    for event in events:
        now += event.num_bytes
        peak = max(peak, now)
    return peak


class Request(NamedTuple):
    """An allocation, and what was allocated when it came."""

    num_bytes: int
    live_bytes: int


def requests(events: Iterable[Event], but: str = "") -> list[Request]:
    """The allocations in order, but those of one op."""
    found, live = [], 0
    for event in events:
        if event.num_bytes > 0 and event.op != but:
            found.append(Request(event.num_bytes, live))
        live += event.num_bytes
    return found


def unmatched(predicted: Iterable[Event], real: Iterable[Event]) -> tuple[Counter[int], Counter[int]]:
    """Allocations by size that only the recording has, and that only the prediction has, whatever their order."""
    ours, theirs = (Counter(event.num_bytes for event in events if event.num_bytes > 0) for events in (predicted, real))
    return theirs - ours, ours - theirs

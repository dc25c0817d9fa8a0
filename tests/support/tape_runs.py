"""A program traced under CUDA's Semantics as events that can be laid beside a tape's."""

from __future__ import annotations

import gc
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from memprof.model.tape import Tape
from memprof.semantics.device import Semantics
from memprof.semantics.workspace import cublas_workspace_bytes
from memprof.trace.attribution import Attribution
from memprof.trace.cuda_overrides import device_behaviour
from memprof.trace.in_place import InPlace
from memprof.trace.kernel_calls import kernel_calls, uses_workspace
from memprof.trace.op_names import stands_for
from memprof.trace.recorder import Recorder

_DEVICE = torch.ops.prim.device.default


class Event(NamedTuple):
    """Bytes taken (positive) or given back, and the outermost ATen op that took them."""

    num_bytes: int
    op: str


class CudaRecorder(Recorder):
    """A recorder that also writes in place where a real run does, and knows kernels' scratch and workspaces."""

    def __init__(self, sem: Semantics) -> None:
        super().__init__(Attribution(), host_is_free=True)
        self.in_place, self.kernel_calls = InPlace(), kernel_calls(sem)
        self.workspace_bytes = cublas_workspace_bytes(sem)
        self.threads: set[bool] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _DEVICE:
            return args[0].fake_device
        func = self.in_place.written(func, args) or func
        self.op(stands_for() or func.overloadpacket.__name__)
        out = func(*args, **kwargs)
        host = self._is_host(args, kwargs)
        scratch = () if host else self.kernel_calls(func, args, kwargs, out)
        first = [self.born(each.num_bytes) for each in scratch if each.is_first]
        for part in out if isinstance(out, tuple | list) else (out,):
            if isinstance(part, torch.Tensor):
                self._see(part, host)
        in_backward = torch._C._current_autograd_node() is not None
        if uses_workspace(func) and in_backward not in self.threads:
            self.threads.add(in_backward)
            self.born(self.workspace_bytes)
        last = [self.born(each.num_bytes) for each in scratch if not each.is_first]
        for block in reversed(first + last):
            self.dies(block)
        return out


def traced(sem: Semantics, program: Callable[[], Any]) -> list[Event]:
    """The events of a program; what it returns is kept until it ends."""
    gc.disable()
    try:
        with device_behaviour(sem), FakeTensorMode():
            recorder = CudaRecorder(sem)
            with recorder:
                kept = program()
            recorder.close()
            del kept
    finally:
        gc.enable()
    starts = [op.first_event for op in recorder.ops]
    return [
        Event(size if event >= 0 else -size, recorder.ops[bisect_right(starts, index) - 1].name)
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

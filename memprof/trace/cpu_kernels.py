"""What CPU kernels allocate besides their outputs, asked of the kernels themselves.

oneDNN copies a convolution's inputs, weights and outputs into blocked layouts that it chooses by shape and by the
instruction set of the machine; without it, for bfloat16 on older machines, PyTorch unfolds the input. Neither passes
the dispatcher. So the first time that a convolution of some shapes is traced, it runs really, at two small batch sizes
under PyTorch's profiler, and what it asks for at the true batch size follows, as each of its blocks grows linearly.

Source: aten/src/ATen/native/mkldnn/Conv.cpp, aten/src/ATen/native/ConvolutionMM2d.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_iter

_BATCHED = {
    torch.ops.aten.convolution.default: (0,),  # input
    torch.ops.aten.convolution_backward.default: (0, 1),  # gradient of the output, input
}
"""Ops that are asked, and which of their arguments are batches."""
_TRIALS = (2, 3)


class _Shape(NamedTuple):
    """A tensor without its numbers."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def filled(self) -> torch.Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype).zero_()


class CpuKernels:
    """From an op and its arguments to the bytes that its kernel holds beside its outputs when it holds most."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[int, ...]] = {}

    def __call__(self, func: Any, args: tuple[Any, ...], _: dict[str, Any], out: Any) -> tuple[int, ...]:
        if func not in _BATCHED:
            return ()
        call = tuple(_plain(arg) for arg in args)
        key = (func, call)
        if key not in self._known:
            with _disable_current_modes():
                extra = _extra_bytes(func, call, sum(_bytes_of(out)))
            self._known[key] = (extra,) if extra > 0 else ()
        return self._known[key]


def _extra_bytes(func: Any, call: tuple[Any, ...], out_bytes: int) -> int:
    return max(accumulate(_changes(func, call)), default=0) - out_bytes


def _changes(func: Any, call: tuple[Any, ...]) -> list[int]:
    """Bytes taken (positive) and given back, in order, at the batch size of the call."""
    batch = call[0].size[0]
    if batch <= max(_TRIALS):
        return _measured(func, call)
    small, large = (_measured(func, _with_batch(func, call, trial)) for trial in _TRIALS)
    if len(small) != len(large):
        return _measured(func, call)
    return [few + (batch - _TRIALS[0]) * (more - few) for few, more in zip(small, large, strict=True)]


def _measured(func: Any, call: tuple[Any, ...]) -> list[int]:
    args = [arg.filled() if isinstance(arg, _Shape) else arg for arg in call]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        out = func(*args)
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    del out
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def _with_batch(func: Any, call: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    return tuple(
        arg._replace(size=(batch, *arg.size[1:])) if index in _BATCHED[func] else arg for index, arg in enumerate(call)
    )


def _plain(arg: Any) -> Any:
    """An argument that can be compared and kept."""
    if isinstance(arg, torch.Tensor):
        return _Shape(tuple(arg.shape), arg.stride(), arg.dtype)
    return tuple(arg) if isinstance(arg, list) else arg


def _bytes_of(out: Any) -> Iterable[int]:
    return (part.untyped_storage().nbytes() for part in tree_iter(out) if isinstance(part, torch.Tensor))

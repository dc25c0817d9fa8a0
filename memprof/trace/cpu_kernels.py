"""What CPU kernels allocate besides their outputs, where rules of `memprof.semantics.aten` do not say it.

Operands of a pointwise op that are not of its common dtype are cast before it runs. Convolutions are asked themselves:
oneDNN copies their inputs, weights and outputs into blocked layouts that it chooses by shape and by the instruction set
of the machine; without it, for bfloat16 on older machines, PyTorch unfolds the input. Neither passes the dispatcher. So
the first time that a convolution of some shapes is traced, it runs really, at two small batch sizes under PyTorch's
profiler, and what it asks for at the true batch size follows, as each of its blocks grows linearly. So do products
with bitsandbytes' quantized weights, which are programs of other ops; what autocast changes within those is left out.

Source: aten/src/ATen/native/mkldnn/Conv.cpp, aten/src/ATen/native/ConvolutionMM2d.cpp, aten/src/ATen/TensorIterator.cpp
(``compute_types``: temporaries for operands on the CPU).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, reduce
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_iter

from memprof.semantics.device import Semantics
from memprof.trace.fake_kernels import copied
from memprof.trace.kernel_calls import kernel_calls
from memprof.trace.replaced import replaced

_BATCHED = {
    "aten::convolution": (0,),  # input
    "aten::convolution_backward": (0, 1),  # gradient of the output, input
    "bitsandbytes::gemm_4bit": (0,),  # input
    "bitsandbytes::int8_vectorwise_quant": (0,),  # input
    "bitsandbytes::int8_mixed_scaled_mm": (0, 1, 3),  # input, quantized, and its scales
}
_SUMS = dict.fromkeys(("aten::sum.dim_IntList", "aten::mean.dim"), (0,))
"""Ops that are asked, and which of their arguments are batches. Sums are asked in 16 bits alone: some of them, by the
layout of their input, are of a copy in float32. Source: aten/src/ATen/native/ReduceOps.cpp (``should_use_acc_buffer``).
"""
_TRIALS = (2, 3)

Kernel = Callable[..., Any]


class _Shape(NamedTuple):
    """A tensor without its numbers."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def filled(self) -> torch.Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype).zero_()


class CpuKernels:
    """From an op and its arguments to the bytes that its kernel holds beside its outputs when it holds most."""

    def __init__(self, sem: Semantics) -> None:
        self._rules = kernel_calls(sem)
        self._num_threads = sem.num_threads
        self._known: dict[Any, tuple[int, ...]] = {}

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> tuple[int, ...]:
        if torch.Tag.pointwise in func.tags:
            return tuple(_casts(args, out))
        name = func.name()
        if not (name in _BATCHED or (name in _SUMS and args[0].itemsize == 2)):
            copies = (tensor.numel() * tensor.itemsize for tensor in copied(func, args))
            return (*copies, *self._rules(func, args, kwargs, out))
        call = tuple(_plain(arg) for arg in args)
        key = (name, call, tuple(kwargs.items()))
        if key not in self._known:
            with _disable_current_modes(), _threads(self._num_threads):
                extra = _extra_bytes(partial(func, **kwargs), (_BATCHED | _SUMS)[name], call, sum(_bytes_of(out)))
            self._known[key] = (extra,) if extra > 0 else ()
        return self._known[key]


def _casts(args: tuple[Any, ...], out: Any) -> Iterable[int]:
    """Bytes of operands, and of a result, in the dtype that the op is computed in."""
    operands = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.dim() and arg.dtype != torch.bool]
    if len({operand.dtype for operand in operands}) < 2:
        return
    common = reduce(torch.promote_types, (operand.dtype for operand in operands))
    written = [out] if isinstance(out, torch.Tensor) and out.is_floating_point() and out is args[0] else []
    for tensor in (*operands, *written):
        if tensor.dtype != common:
            yield tensor.numel() * common.itemsize


def _extra_bytes(kernel: Kernel, batched: tuple[int, ...], call: tuple[Any, ...], out_bytes: int) -> int:
    return max(accumulate(_changes(kernel, batched, call)), default=0) - out_bytes


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Kernels that run inside do so on as many threads as the run that is played: they keep scratch for each."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _changes(kernel: Kernel, batched: tuple[int, ...], call: tuple[Any, ...]) -> list[int]:
    """Bytes taken (positive) and given back, in order, at the batch size of the call."""
    batch = call[0].size[0]
    if batch <= max(_TRIALS):
        return _measured(kernel, call)
    small, large = (_measured(kernel, _with_batch(batched, call, trial)) for trial in _TRIALS)
    if len(small) != len(large):
        return _measured(kernel, call)
    return [few + (batch - _TRIALS[0]) * (more - few) for few, more in zip(small, large, strict=True)]


def _measured(kernel: Kernel, call: tuple[Any, ...]) -> list[int]:
    args = [arg.filled() if isinstance(arg, _Shape) else arg for arg in call]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        out = kernel(*args)
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    del out
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def _with_batch(batched: tuple[int, ...], call: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    return tuple(
        arg._replace(size=(batch, *arg.size[1:])) if index in batched else arg for index, arg in enumerate(call)
    )


def _plain(arg: Any) -> Any:
    """An argument that can be compared and kept."""
    if isinstance(arg, torch.Tensor):
        return _Shape(tuple(arg.shape), arg.stride(), arg.dtype)
    return tuple(arg) if isinstance(arg, list) else arg


def _bytes_of(out: Any) -> Iterable[int]:
    return (part.untyped_storage().nbytes() for part in tree_iter(out) if isinstance(part, torch.Tensor))


@contextmanager
def library_kernels() -> Iterator[None]:
    """Inside, bitsandbytes' CPU kernels run: functions of torch ops, which allocate; its fake kernels do not.

    No mode does this, as one above the recorder would hold references to what autograd may write into.
    Source: bitsandbytes 0.50 wheel, backends/cpu/ops.py.
    """
    try:
        from bitsandbytes.backends.cpu import ops
    except ImportError:
        yield
        return
    with ExitStack() as stack:
        for name in ("optimizer_update_8bit_blockwise", "optimizer_update_32bit"):
            function = getattr(ops, f"_{name}_cpu", None)
            if function is not None:
                stack.enter_context(replaced(torch.ops.bitsandbytes, name, function))
        yield

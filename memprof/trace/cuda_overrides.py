"""Ops that CUDA makes of other parts than the CPU does, on fake CPU tensors.

The composite ops below ask for the device they run on before they choose. Their kernels in PyTorch's dispatcher are
replaced, so calls from Python and from inside other ops are met alike:

- ``dropout`` becomes ``native_dropout``, which saves a bool mask; the CPU saves noise in the input's dtype;
- ``softmax`` and ``log_softmax`` of float16 to float32 convert as they read, and save the float32 result alone;
- ``rms_norm`` is one kernel from 2.9 on, which saves input, weight and a float32 reciprocal root for each row;
- ``native_layer_norm`` keeps float32 statistics for 16-bit inputs.

Optimizers and gradient clipping take the foreach path that they take for CUDA parameters.

Not replaced, as fake CPU tensors reach the same ops: convolutions, products, pooling, losses, activations, embeddings,
and batch norm, whose cuDNN form saves the same two statistics (its reserve is empty on the recorded tape). LSTM and GRU
run as the CPU's; cuDNN's packed weights and reserve are not modelled.

Source: aten/src/ATen/native/Dropout.cpp (``is_fused_kernel_acceptable``), SoftMax.cpp (``softmax``, ``log_softmax``),
layer_norm.cpp (``rms_norm_symint``), cuda/layer_norm_kernel.cu (``_fused_rms_norm_cuda``); torch 2.13 wheel:
torchgen/packaged/autograd/derivatives.yaml.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_impls import op_implementations_dict

from memprof.semantics.device import Semantics
from memprof.trace.attention import attention_kernels
from memprof.trace.cuda_autocast import cuda_autocast
from memprof.trace.op_names import standing_for
from memprof.trace.replaced import dispatcher_kernels, replaced, replaced_item

Kernel = Callable[..., Any]
aten = torch.ops.aten


@contextlib.contextmanager
def device_behaviour(sem: Semantics) -> Iterator[None]:
    """While open, fake CPU tensors are treated as tensors of the device are."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with contextlib.ExitStack() as stack:
        stack.enter_context(attention_kernels(sem))
        if sem.kind == "cuda":
            FakeTensorMode.cache_clear()  # it may remember statistics of the CPU's dtype
            stack.callback(FakeTensorMode.cache_clear)
            stack.enter_context(cuda_autocast(sem))
            stack.enter_context(cuda_ops(sem))
            stack.enter_context(cuda_optimizers())
        yield


@contextlib.contextmanager
def cuda_ops(sem: Semantics) -> Iterator[None]:
    """While open, the composite ops of the list above choose as on CUDA."""
    kernels: dict[str, Kernel] = {"dropout": _dropout, "softmax.int": _softmax, "log_softmax.int": _log_softmax}
    if sem.torch >= (2, 9):
        kernels["_fused_rms_norm"] = _rms_norm
    with contextlib.ExitStack() as stack:
        stack.enter_context(dispatcher_kernels("AutogradCPU", kernels))
        stack.enter_context(replaced_item(op_implementations_dict, aten.native_layer_norm.default, _layer_norm))
        yield


@contextlib.contextmanager
def cuda_optimizers() -> Iterator[None]:
    """While open, ``foreach=None`` means on CPU parameters what it means on CUDA's: that foreach is taken.

    Source: torch 2.13 wheel: torch/optim/optimizer.py (``_default_to_fused_or_foreach``).
    """
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.optim import optimizer
    from torch.utils import _foreach_utils

    with contextlib.ExitStack() as stack:
        for module in (optimizer, _foreach_utils):
            types = module._foreach_supported_types  # noqa: SLF001
            stack.enter_context(replaced(module, "_get_foreach_kernels_supported_devices", lambda: ["cuda", "cpu"]))
            stack.enter_context(replaced(module, "_foreach_supported_types", [*types, FakeTensor]))
        yield


def _dropout(tensor: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    if p == 0 or not train or not tensor.numel():
        return tensor  # PyTorch's Python decomposition would clone it
    if p < 1:
        return aten.native_dropout(tensor, p, True)[0]
    return aten.dropout.default.decompose(tensor, p, train)


def _softmax(tensor: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    if _converts(tensor, dtype):
        return aten._softmax(tensor, dim, True)  # noqa: SLF001
    return aten.softmax.int.decompose(tensor, dim, dtype)


def _log_softmax(tensor: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    if _converts(tensor, dtype):
        return aten._log_softmax(tensor, dim, True)  # noqa: SLF001
    return aten.log_softmax.int.decompose(tensor, dim, dtype)


def _converts(tensor: torch.Tensor, dtype: torch.dtype | None) -> bool:
    return (tensor.dtype, dtype) == (torch.float16, torch.float32)


def _layer_norm(_: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
    """The fake of ``native_layer_norm`` with the statistics that CUDA keeps."""
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    tensor, dims = given["input"], len(given["normalized_shape"])
    rows = (*tensor.shape[: tensor.dim() - dims], *(1,) * dims)
    dtype = _statistics_dtype(tensor)
    out = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    return out, tensor.new_empty(rows, dtype=dtype), tensor.new_empty(rows, dtype=dtype)


def _statistics_dtype(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _rms_norm(
    tensor: torch.Tensor, normalized_shape: list[int], weight: torch.Tensor | None, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    return _FusedRmsNorm.apply(tensor, len(normalized_shape), weight)


class _FusedRmsNorm(torch.autograd.Function):
    """One autograd node, as ``_fused_rms_norm`` has on CUDA; the CPU's op is made of parts that save more."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, dims: int, weight: torch.Tensor | None) -> Any:
        rows = (*tensor.shape[: tensor.dim() - dims], *(1,) * dims)
        with standing_for("aten::_fused_rms_norm"):
            out = torch.empty_like(tensor, memory_format=torch.contiguous_format)
            roots = tensor.new_empty(rows, dtype=_statistics_dtype(tensor))
        ctx.mark_non_differentiable(roots)
        ctx.set_materialize_grads(False)
        ctx.shape = tensor.shape[tensor.dim() - dims :]
        ctx.save_for_backward(tensor, weight, roots)
        return out, roots

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        tensor, weight, roots = ctx.saved_tensors
        mask = [ctx.needs_input_grad[0], weight is not None and ctx.needs_input_grad[2]]
        grad, grad_weight = aten._fused_rms_norm_backward(  # noqa: SLF001
            grads[0], tensor, ctx.shape, roots, weight, mask
        )
        return grad, None, grad_weight

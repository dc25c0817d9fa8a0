"""Attention in one call on fake tensors: the kernel that the device would take, played from its script.

Fused kernels are played from the scripts of `memprof.semantics.attention_scripts`. The math path runs as PyTorch's own
composite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import msgspec
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from memprof.errors import UnsupportedError
from memprof.semantics.attention import AttentionCall, Buffer, Kernel, Layout, Script, Step
from memprof.semantics.attention_choice import Backend, choose
from memprof.semantics.attention_scripts import attention_script
from memprof.semantics.device import Semantics
from memprof.trace.op_names import standing_for
from memprof.trace.replaced import dispatcher_kernels

_PLAIN = torch.ops.aten.scaled_dot_product_attention.default
_NAMES = {
    "cudnn": "aten::_scaled_dot_product_cudnn_attention",
    "flash": "aten::_scaled_dot_product_flash_attention",
    "efficient": "aten::_scaled_dot_product_efficient_attention",
    "flash-cpu": "aten::_scaled_dot_product_flash_attention_for_cpu",
    "flash-attn": "flash_attn::flash_attn_func",
}
_INPUTS = ("query", "key", "value", "mask")


@contextlib.contextmanager
def attention_kernels(sem: Semantics) -> Iterator[None]:
    """While open, attention allocates and saves what the kernel on the device does."""
    with dispatcher_kernels("AutogradCPU", {"scaled_dot_product_attention": partial(_attend, sem)}):
        yield


def _attend(
    sem: Semantics,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    kernel: Kernel = "math"
    if query.dim() == key.dim() == value.dim() == 4:  # fused kernels take nothing else
        call = _call(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
        kernel = _choose(sem, call, _allowed())
    if kernel == "math":
        with sdpa_kernel(SDPBackend.MATH):
            return _PLAIN.decompose(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
    if kernel == "flash" and call.head_dim % 8:
        wide = [torch.nn.functional.pad(tensor, (0, -call.head_dim % 8)) for tensor in (query, key, value)]
        call = _call(wide[0], wide[1], wide[2], None, dropout_p, is_causal, enable_gqa)
        return _Fused.apply(sem, kernel, call, *wide, None)[..., : query.shape[-1]]
    return _Fused.apply(sem, kernel, call, query, key, value, attn_mask)


def flash_attn_func(
    sem: Semantics, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, is_causal: bool
) -> torch.Tensor:
    """The flash-attn library's function over (batch, length, heads, width) tensors.

    Raises:
        UnsupportedError: it cannot run on the device.
    """
    inputs = [tensor.transpose(1, 2) for tensor in (query, key, value)]
    call = _call(inputs[0], inputs[1], inputs[2], None, dropout, is_causal, True)
    kernel = _choose(sem, call, ("flash-attn",))
    return _Fused.apply(sem, kernel, call, *inputs, None).transpose(1, 2)


def _call(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    is_causal: bool,
    enable_gqa: bool,
) -> AttentionCall:
    batch, q_heads, q_len, head_dim = query.shape
    return AttentionCall(
        batch=batch,
        q_heads=q_heads,
        kv_heads=key.shape[1],
        q_len=q_len,
        kv_len=key.shape[2],
        head_dim=head_dim,
        value_head_dim=value.shape[3],
        dtype=_dtype(query),
        mask_shape=None if mask is None else tuple(mask.shape),
        mask_dtype="bool" if mask is None else _dtype(mask),
        mask_requires_grad=mask is not None and mask.requires_grad,
        is_causal=is_causal,
        dropout=dropout,
        requires_grad=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value)),
        enable_gqa=enable_gqa,
        layout=_layout(query),
        repeated_kv=_layout(query) == "bshd" and _layout(key) == "bhsd",
    )


class _Fused(torch.autograd.Function):
    """Forward and backward of a fused kernel, one autograd node as in PyTorch, each playing its half of the script."""

    @staticmethod
    def forward(ctx: Any, sem: Semantics, kernel: Kernel, call: AttentionCall, *inputs: Any) -> torch.Tensor:
        script = _script(sem, kernel, call)
        held = dict(zip(_INPUTS, inputs, strict=True))
        with standing_for(_NAMES[kernel]):
            _play(script, script.forward, held, call.layout)
        ctx.sem, ctx.kernel, ctx.call = sem, kernel, call
        ctx.save_for_backward(*(held[name] for name in script.saved))
        return _slice(held["output"], call.value_head_dim)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        call: AttentionCall = msgspec.structs.replace(ctx.call, grad_layout=_layout(grads[0]))
        script = _script(ctx.sem, ctx.kernel, call)
        held = dict(zip(script.saved, ctx.saved_tensors, strict=True)) | {"grad_output": grads[0]}
        with standing_for(f"{_NAMES[ctx.kernel]}_backward"):
            _play(script, script.backward, held, script.output_layout)
            if ctx.needs_input_grad[-1]:  # scripts know no gradient of a bias
                held["grad_mask"] = grads[0].new_empty(call.mask_shape)
        needed = ctx.needs_input_grad[-len(_INPUTS) :]
        gradients = [held[f"grad_{name}"] if need else None for name, need in zip(_INPUTS, needed, strict=True)]
        gradients[:3] = (None if grad is None else _slice(grad, call.head_dim) for grad in gradients[:3])
        return None, None, None, *gradients


def _slice(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """Without the padding of its heads, where there is one."""
    return tensor if tensor.shape[-1] == width else tensor[..., :width]


def _play(script: Script, steps: tuple[Step, ...], held: dict[str, Any], layout: Layout) -> None:
    """Allocate and let go as the script says; what it leaves behind stays in ``held``."""
    device = next(iter(held.values())).device
    for step in steps:
        if step.alloc:
            order = script.output_layout if step.name == "output" else layout
            held[step.name] = _allocate(script.buffers[step.name], order, step.name, device)
        else:
            held.pop(step.name, None)


def _allocate(buffer: Buffer, layout: Layout, name: str, device: torch.device) -> torch.Tensor:
    dtype = getattr(torch, buffer.dtype)
    if layout == "bshd" and len(buffer.shape) == 4 and (name == "output" or name.startswith("grad_")):
        batch, heads, length, width = buffer.shape
        return torch.empty((batch, length, heads, width), dtype=dtype, device=device).transpose(1, 2)
    return torch.empty(buffer.shape, dtype=dtype, device=device)


@lru_cache(maxsize=1024)
def _script(sem: Semantics, kernel: Kernel, call: AttentionCall) -> Script:
    return attention_script(sem, kernel, call)


@lru_cache(maxsize=1024)
def _choose(sem: Semantics, call: AttentionCall, allowed: tuple[Backend, ...]) -> Kernel:
    """The device's choice; where ``torch.nn.attention.sdpa_kernel`` allows some, the first of them that can run."""
    if len(allowed) == 4:
        return choose(sem, call)
    refusals = [_refusal(sem, call, backend) for backend in allowed]
    for backend, refusal in zip(allowed, refusals, strict=True):
        if refusal is None:
            return choose(sem, call, forced=backend)
    raise refusals[0] or AssertionError


def _refusal(sem: Semantics, call: AttentionCall, backend: Backend) -> UnsupportedError | None:
    try:
        choose(sem, call, forced=backend)
    except UnsupportedError as error:
        return error
    return None


def _allowed() -> tuple[Backend, ...]:
    cuda = torch.backends.cuda
    enabled: dict[Backend, bool] = {
        "flash": cuda.flash_sdp_enabled(),
        "efficient": cuda.mem_efficient_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    return tuple(backend for backend, is_on in enabled.items() if is_on)


def _layout(tensor: torch.Tensor) -> Layout:
    return "bshd" if tensor.stride(2) > tensor.stride(1) else "bhsd"


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

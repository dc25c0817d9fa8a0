"""The workspace that the efficient kernel's backward asks for.

Every kernel accumulates dQ in float32 tiles of its block size; a 16-bit kernel whose head width exceeds its block also
accumulates dK and dV. Which block a card takes depends on its shared memory: that the cards with at least 160 KB
(sm_80, sm_87, sm_90, sm_10x) take the large blocks and the others the small ones is inferred from the names of the
kernels, and moves the result by little, as smaller blocks come in greater number.

Source: torch 2.13 wheel: include/ATen/native/transformers/cuda/mem_eff_attention/kernel_backward.h
(``Params::workspace_size``) and kernels/cutlassB.h; aten/src/ATen/native/transformers/cuda/attention_backward.cu.
"""

from __future__ import annotations

import msgspec

from memprof.semantics.attention import AttentionCall
from memprof.semantics.device import Semantics

_HALF = ("float16", "bfloat16")
_LARGE_SHARED_MEMORY = ((8, 0), (8, 7), (9, 0), (10, 0), (10, 3))
_ANY = 65536


class _Kernel(msgspec.Struct, frozen=True):
    """Queries and keys of a block, and the widest head it takes."""

    rows: int
    columns: int
    max_width: int


def backward_workspace(sem: Semantics, call: AttentionCall) -> int:
    """Bytes of the byte tensor that the backward holds while its kernel runs."""
    kernel = _kernel(sem, call)
    accumulate = call.dtype in _HALF and kernel.max_width > kernel.rows
    splits = _key_splits(call, kernel, accumulate)
    floats = -(-call.q_len // kernel.rows) * -(-call.head_dim // kernel.columns) * (4 + kernel.rows * kernel.columns)
    if accumulate:
        widths = _round_up(call.head_dim, kernel.rows) + _round_up(call.value_head_dim, kernel.rows)
        floats += splits * kernel.columns * widths
    return call.batch * call.q_heads * _round_up(floats, 4) * 4


def computes_delta(sem: Semantics, call: AttentionCall) -> bool:
    """Whether the kernel sums gradient times output itself (``kKernelComputesDelta``); else plain ops do before it."""
    volta = (7, 0) <= sem.capability < (7, 5)
    kernel = _kernel(sem, call)
    return call.dtype in _HALF and (kernel.max_width <= kernel.rows or not volta)


def _kernel(sem: Semantics, call: AttentionCall) -> _Kernel:
    """The first of PyTorch's list that takes the head width and fits the card."""
    width = max(call.head_dim, call.value_head_dim)
    capability = sem.capability
    large = capability in _LARGE_SHARED_MEMORY
    if width <= 64:
        return _Kernel(64, 64, 32 if width <= 32 else 64)
    if width <= 96 and call.dtype in _HALF and call.dropout == 0 and capability in ((8, 6), (8, 9)):
        return _Kernel(128, 64, 96)
    max_width = 128 if width <= 128 else _ANY
    if not large:
        return _Kernel(64, 64, max_width)
    return _Kernel(128, 128 if call.dtype in _HALF and width <= 128 else 64, max_width)


def _key_splits(call: AttentionCall, kernel: _Kernel, accumulate: bool) -> int:
    splits = -(-call.kv_len // kernel.columns)
    pairs = call.batch * call.q_heads
    if pairs >= 256 and call.kv_len <= 2 * kernel.columns:
        splits = 1
    if accumulate:
        splits = min(splits, 200 // pairs)
    return max(splits, 1)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple

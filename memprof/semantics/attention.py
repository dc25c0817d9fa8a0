"""Scaled dot-product attention: the call, and the script of allocations that a kernel turns it into.

``choose`` says which kernel PyTorch takes, ``attention_script`` what it allocates, saves and frees. Shapes are
(batch, heads, length, head width) throughout.
"""

from __future__ import annotations

from math import prod
from typing import Literal, NamedTuple

import msgspec

from memprof.model.dtypes import ITEM_BYTES

Kernel = Literal["cudnn", "flash", "efficient", "math", "flash-cpu"]
Layout = Literal["bhsd", "bshd"]


class AttentionCall(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of one ``scaled_dot_product_attention`` call.

    Attributes:
        dtype: of query, key and value (autocast has already cast them).
        mask_shape: None where no mask is passed; dimensions of 1 broadcast.
        mask_dtype: ``bool`` or a floating dtype (additive).
        requires_grad: grad mode is on and query, key or value needs a gradient.
        layout: order in memory of query, key and value: ``bshd`` for a projection that was viewed and transposed.
    """

    batch: int
    q_heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    value_head_dim: int
    dtype: str
    mask_shape: tuple[int, ...] | None = None
    mask_dtype: str = "bool"
    mask_requires_grad: bool = False
    is_causal: bool = False
    dropout: float = 0.0
    requires_grad: bool = True
    enable_gqa: bool = False
    layout: Layout = "bshd"


class Buffer(NamedTuple):
    """A tensor that the kernel allocates."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]


class Step(NamedTuple):
    """``alloc`` creates the named buffer; otherwise the script lets go of its hold on it."""

    alloc: bool
    name: str


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What one attention call does to memory, in order.

    Names: ``query``, ``key``, ``value``, ``mask`` and ``grad_output`` are the caller's; ``output`` and ``grad_query``,
    ``grad_key``, ``grad_value`` (``grad_mask``) go to the caller; the rest is the kernel's own. A name in ``saved`` is
    held by autograd from the forward until ``backward`` lets go of it; the caller's tensors may live longer.

    Attributes:
        buffers: every buffer the script allocates, by name.
        forward: ends with only ``output`` and the saved buffers alive.
        saved: empty where nothing needs a gradient.
        backward: ends with only the gradients alive; lets go of ``grad_output`` where autograd does.
        output_layout: ``bshd`` makes the usual ``transpose(1, 2).reshape`` free of a copy.
        host: names that live in CPU memory (random-number states); on a CUDA device they cost nothing.
        unknown: what the script leaves out and why, or None.
    """

    kernel: Kernel
    buffers: dict[str, Buffer]
    forward: tuple[Step, ...]
    saved: tuple[str, ...]
    backward: tuple[Step, ...]
    output_layout: Layout
    host: tuple[str, ...] = ()
    unknown: str | None = None

"""Scaled dot-product attention: the call, and the script of allocations that a kernel turns it into.

``attention_choice.choose`` says which kernel PyTorch takes, ``attention_scripts.attention_script`` what it allocates,
saves and frees. Shapes are (batch, heads, length, head width) throughout.
"""

from __future__ import annotations

from math import prod
from typing import Literal, NamedTuple

import msgspec

from memprof.model.dtypes import ITEM_BYTES

Kernel = Literal["cudnn", "flash", "efficient", "math", "flash-cpu", "flash-attn"]
Layout = Literal["bhsd", "bshd"]


class AttentionCall(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of one ``scaled_dot_product_attention`` call.

    Attributes:
        dtype: of query, key and value (autocast has already cast them).
        mask_shape: None where no mask is passed; dimensions of 1 broadcast.
        mask_dtype: ``bool`` or a floating dtype (additive).
        requires_grad: grad mode is on and one of query, key and value needs a gradient.
        inputs_grad: which of query, key and value do: the math path saves and computes by that, fused kernels do all.
        layout: order in memory of query, key and value: ``bshd`` for a projection that was viewed and transposed.
        repeated_kv: key and value were copied to the query's heads before the call, so that they lie as ``bhsd``.
        grad_layout: order in memory of the output's gradient: ``bshd`` where ``transpose(1, 2)`` follows the call.
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
    inputs_grad: tuple[bool, bool, bool] = (True, True, True)
    enable_gqa: bool = False
    layout: Layout = "bshd"
    repeated_kv: bool = False
    grad_layout: Layout = "bshd"

    @property
    def query_shape(self) -> tuple[int, ...]:
        return (self.batch, self.q_heads, self.q_len, self.head_dim)

    @property
    def key_shape(self) -> tuple[int, ...]:
        return (self.batch, self.kv_heads, self.kv_len, self.head_dim)

    @property
    def value_shape(self) -> tuple[int, ...]:
        return (self.batch, self.kv_heads, self.kv_len, self.value_head_dim)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.batch, self.q_heads, self.q_len, self.value_head_dim)


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
    ``grad_key``, ``grad_value`` go to the caller; the rest is the kernel's own. A name in ``saved`` is held by autograd
    from the forward until ``backward`` lets go of it, beside whoever else holds it: a letting go of a caller's tensor,
    of ``output`` or of ``grad_output`` frees nothing while the caller keeps it. Scalars (at most 8 bytes) that kernels
    make on the way are left out.

    Attributes:
        buffers: every buffer the script allocates, by name.
        forward: ends with only ``output`` and what is saved alive.
        saved: empty where nothing needs a gradient.
        backward: empty where nothing needs a gradient; ends with only the gradients alive.
        output_layout: ``bshd`` makes the usual ``transpose(1, 2).reshape`` free of a copy.
        unknown: what the script leaves out and why, or None.
    """

    kernel: Kernel
    buffers: dict[str, Buffer]
    forward: tuple[Step, ...]
    saved: tuple[str, ...]
    backward: tuple[Step, ...]
    output_layout: Layout
    unknown: str | None = None


class Recorder:
    """Writes a script line by line: ``alloc`` and ``free`` are the kernel's own, ``backward`` turns to the next pass.

    Args:
        saved: what autograd holds after the forward: a ``free`` of it there has no effect.
    """

    def __init__(self, saved: tuple[str, ...]) -> None:
        self.saved = saved
        self.buffers: dict[str, Buffer] = {}
        self.passes: list[list[Step]] = [[]]

    def alloc(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self.buffers[name] = Buffer(shape, dtype)
        self.passes[-1].append(Step(True, name))

    def free(self, *names: str) -> None:
        held = self.saved if len(self.passes) == 1 else ()
        self.passes[-1].extend(Step(False, name) for name in names if name not in held)

    def backward(self) -> None:
        self.passes.append([])

    def script(self, kernel: Kernel, output_layout: Layout, unknown: str | None = None) -> Script:
        forward, backward = self.passes if len(self.passes) == 2 else (self.passes[0], [])
        return Script(
            kernel=kernel,
            buffers=self.buffers,
            forward=tuple(forward),
            saved=self.saved,
            backward=tuple(backward),
            output_layout=output_layout,
            unknown=unknown,
        )

"""Shapes and strides of results that PyTorch's own fake kernels refuse to tell, or tell wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


_CONTIGUOUS = frozenset((aten.native_layer_norm.default, aten.native_layer_norm_backward.default))
"""Kernels that copy strided inputs, and return what is contiguous; fake ones return the strides of their inputs.
Source: aten/src/ATen/native/layer_norm.cpp (``expect_contiguous``)."""


def kernel(func: Any) -> Callable[..., Any] | None:
    """A function of the op's arguments that makes its results; None where PyTorch's fake kernel does."""
    return _KERNELS.get(func.name())


def copied(func: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """Arguments that the op's kernel copies because they are strided."""
    if func not in _CONTIGUOUS:
        return []
    return [arg for arg in args if isinstance(arg, Tensor) and not arg.is_contiguous()]


def as_kernels_see(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, with copies in the place of those that the op's kernel copies."""
    if not copied(func, args):
        return args
    return tuple(arg.contiguous() if isinstance(arg, Tensor) else arg for arg in args)


def _grouped_mm(
    mat_a: Tensor, mat_b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: Any = None
) -> Tensor:
    """Any dtype, as the kernels take it since 2.10; PyTorch's fake one insists on bfloat16.

    Rows are aligned to 16 bytes. Source: aten/src/ATen/native/GroupedMMUtils.h (``create_grouped_gemm_output_tensor``).
    """
    rows, columns = mat_a.shape[-2], mat_b.shape[-1]
    groups: list[int] = []
    if mat_a.dim() == mat_b.dim():
        groups = [len(offs) if mat_a.dim() == 2 and offs is not None else mat_a.shape[0]]
    dtype = out_dtype or mat_a.dtype
    aligned = 16 // dtype.itemsize
    pitch = -(-columns // aligned) * aligned
    strides = [rows * pitch, pitch, 1] if groups else [pitch, 1]
    return mat_a.new_empty_strided([*groups, rows, columns], strides, dtype=dtype)


def _ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, Tensor]:
    """The loss of each sequence, and the probabilities of each state that its backward needs.

    There are twice as many states as characters in the longest target, and one. Source:
    aten/src/ATen/native/LossCTC.cpp (``ctc_loss_allocate_outputs``).
    """
    frames, batch = log_probs.shape[0], log_probs.shape[1]
    longest = int(target_lengths.max())
    return log_probs.new_empty((batch,)), log_probs.new_empty((batch, frames, 2 * longest + 1))


def _int8_rows(rows: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:
    """Quantized rows, the scale of each, and the columns that have outliers: none, where they are looked for.

    How many there are follows from values. Source: bitsandbytes 0.50.2 wheel, _ops.py (``int8_vectorwise_quant``).
    """
    scales = rows.new_empty(rows.numel() // rows.shape[-1], dtype=torch.float32)
    outliers = rows.new_empty(0, dtype=torch.int64) if threshold else None
    return rows.new_empty(rows.shape, dtype=torch.int8), scales, outliers


def _int8_product(rows: Tensor, quantized: Tensor, weight: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """The product in the dtype of the rows, and the rows' outliers, of which there are none.

    Source: bitsandbytes 0.50.2 wheel, _ops.py (``int8_mixed_scaled_mm``).
    """
    return rows.new_empty((*quantized.shape[:-1], weight.shape[0])), rows.new_empty(0)


_KERNELS: dict[str, Callable[..., Any]] = {
    "aten::_grouped_mm": _grouped_mm,
    "aten::_ctc_loss.Tensor": _ctc_loss,
    "bitsandbytes::int8_vectorwise_quant": _int8_rows,
    "bitsandbytes::int8_mixed_scaled_mm": _int8_product,
}

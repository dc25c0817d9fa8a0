"""Gradient clipping and the gradient scaler: the small tensors they make; gradients are changed in place.

Source: torch 2.13 wheel: nn/utils/clip_grad.py, amp/grad_scaler.py; the fast path of ``_foreach_norm`` on CUDA:
https://github.com/pytorch/pytorch/blob/0124626f435bc454e10b6362acbd352dde4617d3/aten/src/ATen/native/cuda/ForeachReduceOp.cu
(``output_per_tensor``), MultiTensorApply.cuh beside it (``kChunkSize``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from memprof.model.dtypes import ITEM_BYTES

CHUNK_NUMEL = 65536


class Temporary(NamedTuple):
    """An allocation or free of clipping."""

    action: Literal["alloc", "free"]
    name: str
    num_bytes: int


def clip_grad_norm_events(numels: Sequence[int], dtype: str, device_kind: str) -> tuple[Temporary, ...]:
    """What ``clip_grad_norm_`` allocates for gradients of one dtype, in order.

    On an accelerator the norm of each chunk of 65,536 elements is written to a table with a row per gradient and as
    many columns as the largest has chunks; then come one scalar per gradient, their stack, and the total, which the
    caller holds. 0-dim tensors that live inside one op are left out.
    """
    item, opmath = ITEM_BYTES[dtype], max(4, ITEM_BYTES[dtype])
    events: list[Temporary] = []
    if device_kind != "cpu":
        table = len(numels) * -(-max(numels) // CHUNK_NUMEL) * opmath
        events.append(Temporary("alloc", "norms_of_chunks", table))
    norms = [Temporary("alloc", "norm", item) for _ in numels]
    events += norms
    if device_kind != "cpu":
        events.append(events[0]._replace(action="free"))
    stack = Temporary("alloc", "stack", len(numels) * item)
    total = Temporary("alloc", "total_norm", item)
    events += [stack, total, stack._replace(action="free")]
    events += [norm._replace(action="free") for norm in norms]
    return tuple(events)


SCALER_STATES: tuple[tuple[str, int], ...] = (("_scale", 4), ("_growth_tracker", 4))
"""Device tensors that ``GradScaler`` keeps from its first ``scale`` on: a float32 and an int32 scalar."""

FOUND_INF_BYTES = 4
"""One float32 per device and optimizer, from ``unscale_`` (or ``step``) to ``update``."""

"""DistributedDataParallel: gradient buckets, exact to the byte.

Buckets hold a second copy of all gradients (``gradient_as_bucket_view=False``, the default) from construction on. The
first ones hold everything of a dtype in one block; after the first backward the next forward frees them and makes
new ones of at most 1 MiB, then 25 MiB, in the order in which gradients became ready. A bucket is closed by the tensor
that takes it to its limit, so it may be larger. Reduction is in place and gradients are copied in and out.

Left out: the two int32 tensors, four bytes a parameter, that live while rebuilt buckets are agreed on among ranks, and
the unused-parameter map of ``find_unused_parameters=True`` (default False).

Source: torch 2.13 wheel: torch/nn/parallel/distributed.py (_BucketCapacityConfig, _ddp_init_helper);
https://github.com/pytorch/pytorch/blob/main/torch/csrc/distributed/c10d/reducer.cpp (initialize_buckets,
rebuild_buckets, compute_bucket_assignment_by_size).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from memprof.model.dtypes import ITEM_BYTES
from memprof.model.timeline import Component
from memprof.semantics.sharding import Buffer
from memprof.units import MiB

FIRST_BUCKET_BYTES = 1 * MiB
"""Source: torch 2.13 wheel: torch.distributed._DEFAULT_FIRST_BUCKET_BYTES."""

BUCKET_BYTES = 25 * MiB
"""Source: torch 2.13 wheel: torch/nn/parallel/distributed.py, ``bucket_cap_mb``: None means 25 MiB."""

BROADCAST_BYTES = 250 * MiB
"""Source: torch 2.13 wheel: torch/nn/parallel/distributed.py, ``broadcast_bucket_size``."""

Gradient = tuple[tuple[int, ...], str]
"""Shape and dtype of a trainable parameter; its gradient has the same."""


def first_buckets(gradients: Sequence[Gradient]) -> Buffer:
    """Buckets from construction to the second forward: one a dtype, as the reducer sees all parameters unlimited."""
    return Buffer(tuple(_assign(gradients, (None,))), Component.COMMUNICATION)


def rebuilt_buckets(gradients: Sequence[Gradient]) -> Buffer:
    """Buckets from the second forward on.

    Args:
        gradients: in the order in which backward makes them ready: roughly ``named_parameters()`` reversed.
    """
    return Buffer(tuple(_assign(gradients, (FIRST_BUCKET_BYTES, BUCKET_BYTES))), Component.COMMUNICATION)


def broadcast_buffers(tensors: Sequence[Gradient]) -> tuple[int, ...]:
    """Flat copies made, at most two alive at once, when parameters and buffers are sent from rank 0.

    At construction all parameters and buffers; in each forward the buffers alone (``broadcast_buffers=True``).
    Source: https://github.com/pytorch/pytorch/blob/main/torch/csrc/distributed/c10d/comm.cpp, broadcast_coalesced.
    """
    return tuple(_assign(tensors, (BROADCAST_BYTES,)))


def _assign(tensors: Iterable[Gradient], limits: tuple[int | None, ...]) -> list[int]:
    """Bytes of each bucket, in order of closing, then those still open in order of their first tensor."""
    closed: list[int] = []
    open_bytes: dict[str, int] = {}
    num_closed: dict[str, int] = {}
    for shape, dtype in tensors:
        open_bytes[dtype] = open_bytes.get(dtype, 0) + prod(shape) * ITEM_BYTES[dtype]
        limit = limits[min(num_closed.get(dtype, 0), len(limits) - 1)]
        if limit is not None and open_bytes[dtype] >= limit:
            closed.append(open_bytes.pop(dtype))
            num_closed[dtype] = num_closed.get(dtype, 0) + 1
    return closed + list(open_bytes.values())

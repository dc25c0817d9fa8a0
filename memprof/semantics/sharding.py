"""Words that FSDP2, DDP and ZeRO share: padded shards, streams, named buffers, and moves that make and free them.

A sharding strategy is told to an engine as *buffers* (what is allocated: sizes, component, stream) and *moves* (when,
in which order). An engine inserts the moves of a unit around that unit's forward and backward.
"""

from __future__ import annotations

from enum import IntEnum
from math import prod
from typing import Literal, NamedTuple

import msgspec

from memprof.model.dtypes import ITEM_BYTES
from memprof.model.timeline import Action, Component


class Stream(IntEnum):
    """Streams whose allocations live in pools of their own on CUDA; a CPU has one pool, so there they are all one.

    The all-gather stream itself allocates nothing: its input and output are made on the copy-in stream.
    Source: torch 2.13 wheel: torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, FSDPCommContext.lazy_init.
    """

    COMPUTE = 0
    COPY_IN = 1
    REDUCE_SCATTER = 2
    ALL_REDUCE = 3


class ShardedParameter(NamedTuple):
    """A parameter before it is sharded; ``dtype`` is that of the resident (sharded) weight."""

    shape: tuple[int, ...]
    dtype: str
    trainable: bool = True

    @property
    def numel(self) -> int:
        return prod(self.shape)


class Buffer(msgspec.Struct, frozen=True):
    """Blocks that are allocated and freed together, in bytes each, in order of allocation."""

    num_bytes: tuple[int, ...]
    component: Component
    stream: Stream = Stream.COMPUTE

    @property
    def total(self) -> int:
        return sum(self.num_bytes)


class Move(NamedTuple):
    """One event: the blocks of a named buffer are allocated or freed.

    ``of`` says whose buffer: the unit's own, that of the unit visited before it in the same direction, or of the one
    visited after it. A move of a neighbour that does not exist, or of an empty buffer, is left out.
    """

    action: Action
    buffer: str
    of: Literal["own", "before", "after"] = "own"


def ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def align(count: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is at least ``count``."""
    return ceil_div(count, multiple) * multiple


def shard_shape(shape: tuple[int, ...], world: int) -> tuple[int, ...]:
    """Shape of rank 0's chunk along dim 0: the largest of all ranks, and the size to which the others are padded.

    Source: torch 2.13 wheel: torch/distributed/fsdp/_fully_shard/_fsdp_param.py, _init_sharded_param
    (``torch.chunk``, then ``new_zeros`` of the 0th chunk's size).
    """
    return (ceil_div(shape[0], world), *shape[1:])


def shard_numel(shape: tuple[int, ...], world: int) -> int:
    """Elements of one rank's padded shard."""
    return prod(shard_shape(shape, world))


def shard_bytes(parameter: ShardedParameter, world: int) -> int:
    """Bytes of one rank's padded shard; on rank 0 a gradient or optimizer state of the same dtype is as large."""
    return shard_numel(parameter.shape, world) * ITEM_BYTES[parameter.dtype]

"""FSDP2 (``fully_shard`` on each transformer layer, then on the root): what it allocates, when, and on which stream.

Units are visited root, first layer, ..., last layer in forward (the root is entered first and left last) and root,
last layer, ..., first layer in backward; the root's post-backward runs when all gradients are there. The moves below
are those of the default settings: layers are resharded after forward, the root is not; in forward the flat gathered
buffer of a unit lives until the next unit has copied its own out; in backward the next unit is gathered while the
present one computes; one reduce-scatter input is kept until the next unit's post-backward.

Variations that the same moves tell, each shown by a test:
- A unit with ``reshard_after_forward=False`` (the head, as torchtitan and accelerate wrap it) is played as the root is:
  no FORWARD_EXIT, and BACKWARD_ENTER_ROOT. A root without parameters of its own has no moves.
- A first layer whose inputs need no gradient (frozen embedding) is reduced after the root.
- Checkpointing recomputes between BACKWARD_ENTER and ``backward_exit`` and gathers nothing more.

On a CPU ``_chunk_cat``, which fills the reduce-scatter input, has no fused kernel and goes through copies
(``Unit.padded`` and ``Unit.recast``); so has CUDA for a dtype pair other than equal or bfloat16 to float32, which no
row of the precision table asks for. Left out: metadata of the copy kernels (a few hundred bytes on CUDA).
A model built on the meta device, as torchtitan and accelerate build it, loads with its shards alone.

Source: torch 2.13 wheel: torch/distributed/fsdp/_fully_shard/{_fsdp_collectives,_fsdp_param_group,_fsdp_state}.py;
https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/cuda/TensorShape.cu (_chunk_cat_out_cuda);
https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/TensorShape.cpp (_pad_chunk, cat_out_cpu).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from memprof.errors import ConfigError
from memprof.model.dtypes import ITEM_BYTES
from memprof.model.timeline import Action, Component
from memprof.semantics.precision import Plan
from memprof.semantics.sharding import Buffer, Move, ShardedParameter, Stream, shard_bytes, shard_numel

ALLOC, FREE = Action.ALLOC, Action.FREE
_FLOATING = frozenset(("float64", "float32", "float16", "bfloat16"))


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """One module that ``fully_shard`` was called on: its buffers by name.

    ``shards`` (resident, a block a parameter), ``cast`` (shards in the gathered dtype, where that is another),
    ``gathered`` (flat output of the all-gather), ``unsharded`` (what the module computes with, a block a parameter),
    ``reduce_input`` (all gradients, padded, in the reduction dtype), ``reduced`` (this rank's part, where the reduction
    dtype is not the shards'), ``sharded_gradients`` (one block, what the optimizer reads) and ``new_gradients`` (the
    same of a later micro-step, before they are added). Gradients of the unsharded parameters are not among them:
    autograd's ops make those, in ``gradient_dtype``, unpadded.

    While ``reduce_input`` is filled on a CPU: ``padded`` (copies of gradients whose rows do not divide by the world,
    alive together) and ``recast`` (a slice for each gradient, one at a time, where the reduction dtype is another).
    """

    shards: Buffer
    cast: Buffer
    gathered: Buffer
    unsharded: Buffer
    reduce_input: Buffer
    reduced: Buffer
    sharded_gradients: Buffer
    new_gradients: Buffer
    padded: Buffer
    recast: Buffer
    gradient_dtype: str
    replicated: bool


FORWARD_ENTER = (
    Move(ALLOC, "cast"),
    Move(ALLOC, "gathered"),
    Move(FREE, "cast"),
    Move(ALLOC, "unsharded"),
    Move(FREE, "gathered", "before"),
)
"""Before a unit's forward. ``wait_for_unshard`` holds the earlier result in a local until it returns."""

FORWARD_EXIT = (Move(FREE, "unsharded"),)
"""After a layer's forward; the root keeps its own for backward."""

FORWARD_END = (Move(FREE, "gathered", "before"),)
"""After the root's forward: the last layer's flat buffer."""

_PREFETCH = (Move(ALLOC, "cast", "after"), Move(ALLOC, "gathered", "after"), Move(FREE, "cast", "after"))

BACKWARD_ENTER_ROOT = _PREFETCH
"""When the gradient reaches the root's output (the loss), before any backward op: the last layer is gathered."""

BACKWARD_ENTER = (Move(ALLOC, "unsharded"), Move(FREE, "gathered"), *_PREFETCH)
"""Before a layer's backward; with checkpointing, before its recomputation, which gathers nothing more."""


def backward_exit(unit: Unit, accumulate: bool = False) -> tuple[Move, ...]:
    """After a unit's backward (the root's: after all of backward), when its gradients are reduced.

    ``gradients`` are the unit's gradients from autograd but for the last one in parameter order; ``last_gradient`` is
    that one, which a loop variable of ``foreach_reduce`` holds until the end.

    Args:
        accumulate: sharded gradients are there from an earlier micro-step, so the new ones are added and freed.
    """
    held = _held(unit, accumulate)
    moves = [
        Move(FREE, "unsharded"),
        Move(FREE, "reduce_input", "before"),
        Move(ALLOC, "reduce_input"),
        Move(FREE, "gradients"),
        Move(ALLOC, "reduced"),
        Move(ALLOC, "new_gradients" if accumulate else "sharded_gradients"),
    ]
    if held != "reduced":
        moves.append(Move(FREE, "reduced"))
    moves.append(Move(FREE, "last_gradient"))
    if accumulate and held != "new_gradients":
        moves.append(Move(FREE, "new_gradients"))
    return tuple(moves)


def backward_end(unit: Unit, accumulate: bool = False) -> tuple[Move, ...]:
    """For each unit when backward is over, in forward order."""
    held = _held(unit, accumulate)
    return (Move(FREE, held),) if held else ()


def _held(unit: Unit, accumulate: bool) -> str | None:
    """The block that HSDP all-reduces, kept until the end of backward so that no other layer is given its memory."""
    if not unit.replicated:
        return None
    if unit.reduced.num_bytes:
        return "reduced"
    return "new_gradients" if accumulate else None


BACKWARD_END = (Move(FREE, "reduce_input"),)
"""Last of all, for the unit that was reduced last (the root)."""


def unit(parameters: Sequence[ShardedParameter], plan: Plan, world: int, replicas: int = 1) -> Unit:
    """Buffers of one FSDP2 unit on rank 0.

    Args:
        parameters: the unit's own, in ``named_parameters()`` order, those of nested units left out; the trainable
            ones in one dtype, as torch demands.
        plan: the row of ``precision.PLANS``; its ``gather`` and ``reduce`` are MixedPrecisionPolicy's dtypes.
        world: ranks that a parameter is sharded over.
        replicas: HSDP: groups that hold the same shards.

    Raises:
        ConfigError: ``world`` < 2: torch then copies parameters and gathers nothing.
    """
    if world < 2:
        raise ConfigError(f"parallelism.data must be >= 2 to shard, got {world}", "use strategy none on one GPU")
    shard = [shard_numel(p.shape, world) for p in parameters]
    casts_weights = plan.gather != plan.weights  # else MixedPrecisionPolicy() is empty and dtypes stay as they are
    to = [plan.gather if casts_weights and p.dtype in _FLOATING else p.dtype for p in parameters]
    out = [n * ITEM_BYTES[dtype] for n, dtype in zip(shard, to, strict=True)]
    casts = [b for b, dtype, p in zip(out, to, parameters, strict=True) if dtype != p.dtype]
    trained = [(n, p) for n, p in zip(shard, parameters, strict=True) if p.trainable]
    resident = trained[0][1].dtype if trained else plan.weights
    reduce = plan.reduce if casts_weights else resident
    sharded = sum(n for n, _ in trained) * ITEM_BYTES[resident]
    reduced = sum(n for n, _ in trained) * ITEM_BYTES[reduce]
    recast = resident != reduce
    output = Stream.ALL_REDUCE if recast and replicas > 1 else Stream.REDUCE_SCATTER
    gradient = plan.gather if casts_weights else resident
    whole = [(n * world * ITEM_BYTES[gradient], p) for n, p in trained]
    return Unit(
        shards=Buffer(tuple(shard_bytes(p, world) for p in parameters), Component.WEIGHTS),
        cast=_flat(sum(casts), Stream.COPY_IN),
        gathered=_flat(sum(out) * world, Stream.COPY_IN),
        unsharded=Buffer(tuple(b * world for b in out), Component.COMMUNICATION),
        reduce_input=_flat(reduced * world, Stream.COMPUTE),
        reduced=_flat(reduced if recast else 0, Stream.REDUCE_SCATTER),
        sharded_gradients=_flat(sharded, output, Component.GRADIENTS),
        new_gradients=_flat(sharded, output),
        padded=Buffer(tuple(b for b, p in whole if p.shape[0] % world), Component.COMMUNICATION),
        recast=Buffer(tuple(b for b, _ in whole if gradient != reduce), Component.COMMUNICATION),
        gradient_dtype=gradient,
        replicated=replicas > 1,
    )


def _flat(num_bytes: int, stream: Stream, component: Component = Component.COMMUNICATION) -> Buffer:
    """One block, or none where there is nothing to hold."""
    return Buffer((num_bytes,) if num_bytes else (), component, stream)

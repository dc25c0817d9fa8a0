"""DeepSpeed ZeRO 1, 2 and 3: what the rank that holds most allocates, and when.

Runs of DeepSpeed over gloo agree with it on a CPU; on CUDA it follows from the same code. Items marked ``bound`` are
upper bounds, as their true size depends on the order in which gradients arrive. Offload, MoE groups, ZeRO++ and what
``zero.Init`` needs while it builds are left out, and so are scalars.

The optimizer sees flat tensors (``optimizer_numels``), so its moments and temporaries follow from those. Autograd's own
gradients, unsharded, are not among the items: stage 1 keeps all of them until they are reduced at the accumulation
boundary, stages 2 and 3 move each into the bucket as it becomes ready and free it.

Source: DeepSpeed 0.19.8: deepspeed/runtime/zero, read and run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from memprof.errors import ConfigError
from memprof.model.dtypes import ITEM_BYTES
from memprof.model.scenario import Zero
from memprof.model.timeline import Component
from memprof.semantics.precision import Plan
from memprof.semantics.sharding import ShardedParameter, align, ceil_div
from memprof.semantics.zero_gather import gathered_at_turn, number

_ZERO = "DeepSpeed 0.19.8: deepspeed/runtime/zero/"
_S12, _S3 = _ZERO + "stage_1_and_2.py, ", _ZERO + "stage3.py, "

Stage = Literal[1, 2, 3]
Moment = Literal["load", "forward", "gradients", "reduced", "prepared", "step", "stepped"]

DEFAULTS = Zero()


class Item(msgspec.Struct, frozen=True):
    """One allocation, or a list of them that live together."""

    name: str
    num_bytes: int
    component: Component
    source: str
    bound: bool = False


class Move(msgspec.Struct, frozen=True):
    """An item that is made; one that is freed where ``frees``."""

    name: str
    frees: bool = False


class Reduction(msgspec.Struct, frozen=True):
    """How gradients are reduced: those that fit in the bucket together, one that is larger than it alone.

    Stages 1 and 2 all-reduce a flat copy in place. Stage 3 reduce-scatters a padded copy, of which gloo makes one of
    its own; a gradient that is alone and needs no padding is not copied.
    Source: stage_1_and_2.py and stage3.py, ``reduce_independent_p_g_buckets_and_remove_grads``; ``allreduce_bucket``
    in the former; deepspeed/runtime/comm/coalesced_collectives.py, ``reduce_scatter_coalesced``.
    """

    stage: Stage
    bucket_numel: int
    item_bytes: int
    world: int
    has_scratch: bool

    def num_bytes(self, numels: Sequence[int]) -> int:
        """What reducing gradients of so many elements takes for a moment."""
        if self.stage < 3:
            return sum(numels) * self.item_bytes
        padded = sum(align(numel, self.world) for numel in numels)
        is_copied = len(numels) > 1 or padded > sum(numels)
        return padded * self.item_bytes * (is_copied + self.has_scratch)

    def before_each(self, numels: Iterable[int]) -> Iterator[int]:
        """Bytes of what is reduced as each gradient arrives, before it is taken; at last, of what is left."""
        held: list[int] = []
        total = 0
        for numel in numels:
            is_full = total + numel > self.bucket_numel
            yield self.num_bytes(held) if is_full else 0
            if is_full:
                held, total = [], 0
            held.append(numel)
            total += numel
        yield self.num_bytes(held)


class Memory(msgspec.Struct, frozen=True):
    """What is allocated beside moments, activations and autograd's gradients.

    Attributes:
        items: by name; those of no bytes are left out.
        moves: in order, at each moment: ``load`` of the model, begin of a ``forward``, the first of its ``gradients``,
            all of them ``reduced`` (in stage 1 those of the last backward) and ``prepared`` for the step, begin of the
            ``step``, and after it. In stages 1 and 2 the first reduction makes the gradient partition.
        optimizer_numels: elements of each flat tensor that the optimizer updates, in ``plan.master``.
        reduction: of gradients.
    """

    items: dict[str, Item]
    moves: dict[Moment, tuple[Move, ...]]
    optimizer_numels: tuple[int, ...]
    reduction: Reduction


def resolved(zero: Zero | None, hidden_size: int | None) -> Zero:
    """Every size as a number: DeepSpeed's default for one that is not said, Hugging Face's for one that is "auto".

    Raises:
        ConfigError: "auto", of a model without a hidden size.
    Source: transformers 5.23: integrations/deepspeed.py, trainer_config_finalize.
    """
    said = msgspec.to_builtins(zero or DEFAULTS)
    autos = [name for name, value in said.items() if value == "auto"]
    if autos and hidden_size is None:
        raise ConfigError(
            f"parallelism.zero.{autos[0]} is auto, which follows the hidden size, and the model names none",
            "give a number of elements",
        )
    square = (hidden_size or 0) ** 2
    sizes = {
        "reduce_bucket_size": square,
        "prefetch_bucket_size": int(0.9 * square),
        "param_persistence_threshold": 10 * (hidden_size or 0),
    }
    return Zero(**(said | {name: sizes[name] for name in autos}))


def memory(
    stage: Stage,
    parameters: Sequence[ShardedParameter],
    plan: Plan,
    world: int,
    *,
    settings: Zero = DEFAULTS,
    kind: Literal["cpu", "cuda"] = "cuda",
) -> Memory:
    """What the rank that holds most allocates.

    Args:
        stage: of ZeRO.
        parameters: in loading order; those that are trained are one group of the optimizer's.
        plan: dtypes.
        world: ranks.
        settings: sizes of buffers.
        kind: on a CPU, gloo's collectives and copies to the host are memory too.

    Raises:
        ConfigError: ``world`` < 2, or no trainable parameter.
    """
    if world < 2:
        raise ConfigError(f"parallelism.data must be >= 2 for ZeRO, got {world}", "use strategy none on one GPU")
    if not any(parameter.trainable for parameter in parameters):
        raise ConfigError("ZeRO with no trainable parameter", "use mode inference")
    reduction = Reduction(stage, number(settings.reduce_bucket_size), ITEM_BYTES[plan.reduce], world, kind == "cpu")
    build = _stage3 if stage == 3 else _stage12
    return build(reduction, parameters, plan, settings)


def _stage12(reduction: Reduction, parameters: Sequence[ShardedParameter], plan: Plan, settings: Zero) -> Memory:
    """Stages 1 and 2 share their buffers; they differ in when gradients are reduced."""
    stage, world = reduction.stage, reduction.world
    trained = [p.numel for p in parameters if p.trainable]
    frozen = sum(p.numel for p in parameters if not p.trainable)
    weight, master = ITEM_BYTES[plan.weights], ITEM_BYTES[plan.master or plan.weights]
    casts = plan.master != plan.weights
    flat = align(sum(trained), 2 * world)
    part = flat // world
    # Rank 0's gradients are the first to be reduced in stage 1, and the last rank's in stage 2.
    owned = list(_within(trained, part) if stage == 1 else _within(reversed(trained), part - (flat - sum(trained))))
    bucket = reduction.bucket_numel * weight * (2 if settings.overlap_comm else 1)
    items = [
        Item("frozen_weights", frozen * weight, Component.WEIGHTS, _S12 + "trainable_parameters"),
        Item("unflattened_weights", sum(trained) * weight, Component.TEMPORARIES, _S12 + "flatten_on_accelerator"),
        Item("weights", flat * weight, Component.WEIGHTS, _S12 + "flatten_dense_tensors_aligned"),
        Item("master_clone", part * weight if casts else 0, Component.TEMPORARIES, _S12 + "weights_partition"),
        Item("masters", part * master, Component.OPTIMIZER_STATES, _S12 + "weights_partition"),
        Item("init_gradients", part * master, Component.TEMPORARIES, _S12 + "initialize_optimizer_states"),
        Item("bucket", bucket, Component.COMMUNICATION, _S12 + "setup_buckets"),
        Item("gradient_partition", sum(owned) * weight, Component.GRADIENTS, _S12 + "copy_grads_in_partition"),
        Item("norm", 8 * max(owned), Component.TEMPORARIES, _S12 + "get_grad_norm_direct (in float64)"),
        Item("flat_gradients", part * weight, Component.TEMPORARIES, _S12 + "step, flat_grad_partition"),
        Item("step_gradients", part * master, Component.TEMPORARIES, _S12 + "step, single_grad_partition"),
        Item("gather_scratch", flat * weight if reduction.has_scratch else 0, Component.COMMUNICATION,
             "semantics.gloo, for all_gather_into_tensor_dp_groups"),
    ]  # fmt: skip
    cast = (Move("step_gradients"), Move("flat_gradients", True), Move("step_gradients", True)) if casts else (
        Move("flat_gradients", True),
    )  # fmt: skip
    moves: dict[Moment, tuple[Move, ...]] = {
        "load": (
            Move("frozen_weights"), Move("unflattened_weights"), Move("weights"), Move("unflattened_weights", True),
            Move("master_clone"), Move("masters"), Move("master_clone", True), *_passing("init_gradients"),
        ),
        "gradients": (Move("bucket"),),
        "reduced": (Move("bucket", True),),
        "prepared": (*_passing("norm"), Move("flat_gradients"), *cast, Move("gradient_partition", True)),
        "step": (Move("step_gradients"),),
        "stepped": (Move("step_gradients", True), *_passing("gather_scratch")),
    }  # fmt: skip
    return Memory(_by_name(items), moves, (part,), reduction)


def _stage3(reduction: Reduction, parameters: Sequence[ShardedParameter], plan: Plan, settings: Zero) -> Memory:
    """Every parameter is partitioned on its own, padded to the world size; partitions are stepped by sub-groups."""
    world, is_cpu = reduction.world, reduction.has_scratch
    numels = [p.numel for p in parameters]
    parts = [ceil_div(p.numel, world) for p in parameters if p.trainable]
    frozen = sum(ceil_div(p.numel, world) for p in parameters if not p.trainable)
    weight, master = ITEM_BYTES[plan.weights], ITEM_BYTES[plan.master or plan.weights]
    casts = plan.master != plan.weights
    steps = list(_sub_groups(parts, settings.sub_group_size))
    part, largest = sum(parts), max(steps)
    gathered = [numel for numel in numels if numel > number(settings.param_persistence_threshold)]
    whole = sum(numels) - sum(gathered)
    reduced = ITEM_BYTES[plan.reduced]
    items = [
        Item("unpartitioned_weights", sum(numels) * weight, Component.TEMPORARIES,
             _ZERO + "partition_parameters.py, _partition_param"),
        Item("frozen_weights", frozen * weight, Component.WEIGHTS, _ZERO + "partition_parameters.py, _partition_numel"),
        Item("weights", part * weight, Component.WEIGHTS, _S3 + "lp_param_buffer"),
        Item("partitions", part * weight if is_cpu else 0, Component.TEMPORARIES, _ZERO + "utils.py, defragment"),
        Item("masters", part * master, Component.OPTIMIZER_STATES, _S3 + "_create_fp32_partitions"),
        Item("master_clone", largest * master if casts else 0, Component.TEMPORARIES,
             _S3 + "_create_fp32_partitions, converted"),
        Item("init_gradients", largest * master, Component.TEMPORARIES, _S3 + "initialize_optimizer_states"),
        Item("bucket", reduction.bucket_numel * weight, Component.COMMUNICATION,
             _S3 + "_setup_for_real_optimizer"),
        Item("gradient_partition", part * reduced, Component.GRADIENTS, _S3 + "grad_partitions_flat_buffer"),
        Item("hooked_weight", max(numels) * weight * (2 if is_cpu else 1), Component.COMMUNICATION,
             _S3 + "create_reduce_and_remove_grad_hooks"),
        Item("whole_weights", whole * weight, Component.WEIGHTS,
             _ZERO + "parameter_offload.py, mark_persistent_parameters"),
        Item("gathered_weights", gathered_at_turn(gathered, world, settings) * weight, Component.COMMUNICATION,
             "semantics.zero_gather", bound=True),
        Item("overflow_check", 3 * part if plan.weights == "float16" else 0, Component.TEMPORARIES,
             _S3 + "has_overflow (abs and ==), fp16 alone"),
        Item("norm", 8 * max(parts), Component.TEMPORARIES, _S3 + "get_grad_norm_direct (in float64)"),
        Item("flat_gradients", largest * reduced, Component.TEMPORARIES, _S3 + "_prepare_fp32_grad_for_sub_group"),
        Item("step_gradients", largest * master, Component.TEMPORARIES, _S3 + "_prepare_fp32_grad_for_sub_group"),
    ]  # fmt: skip
    cast = (Move("flat_gradients"), Move("step_gradients"), Move("flat_gradients", True)) if casts else (
        Move("step_gradients"),
    )  # fmt: skip
    moves: dict[Moment, tuple[Move, ...]] = {
        "load": (
            *_passing("unpartitioned_weights"), Move("frozen_weights"), Move("partitions"), Move("weights"),
            Move("partitions", True), Move("masters"), *_passing("master_clone"), *_passing("init_gradients"),
            Move("bucket"), Move("gradient_partition"), *_passing("hooked_weight"),
            Move("whole_weights"),
        ),
        "forward": (Move("gathered_weights"),),
        "reduced": (Move("gathered_weights", True),),
        "prepared": (*_passing("overflow_check"), *_passing("norm")),
        "step": cast,
        "stepped": (Move("step_gradients", True),),
    }  # fmt: skip
    return Memory(_by_name(items), moves, tuple(steps), reduction)


def _by_name(items: Iterable[Item]) -> dict[str, Item]:
    return {item.name: item for item in items if item.num_bytes}


def _passing(name: str) -> tuple[Move, Move]:
    return Move(name), Move(name, True)


def _within(numels: Iterable[int], part: int) -> Iterator[int]:
    """Parameters that begin in the first ``part`` elements: each counts whole, the last one reaches beyond them."""
    start = 0
    for numel in numels:
        if start and start >= part:
            return
        yield numel
        start += numel


def _sub_groups(parts: Iterable[int], size: int) -> list[int]:
    """Elements of each sub-group: partitions in order, closed by the one that takes it to ``size``."""
    sums = [0]
    for part in parts:
        if sums[-1] >= size:
            sums.append(0)
        sums[-1] += part
    return sums

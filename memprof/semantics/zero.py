"""DeepSpeed ZeRO 1, 2 and 3: what one GPU holds, and for how long, as read from its source.

No run has shown any of these figures yet. Sizes of what is resident follow from the code alone; items marked ``bound``
are upper bounds, as their true size depends on the order in which modules run and gradients arrive. Offload, MoE
groups, ZeRO++ and what ``zero.Init`` needs while it builds are left out.

The optimizer sees flat tensors (``optimizer_numels``), so its moments and temporaries follow from those.
Autograd's own gradients, 16 bit and unsharded, are not among the items: stage 1 keeps all of them until backward is
over at the accumulation boundary, stages 2 and 3 move each into the bucket as it becomes ready and free it.

Source: https://github.com/deepspeedai/DeepSpeed/tree/edaa7221/deepspeed/runtime/zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from memprof.errors import ConfigError
from memprof.model.dtypes import ITEM_BYTES
from memprof.model.scenario import Zero as Settings
from memprof.model.timeline import Component
from memprof.semantics.precision import Plan
from memprof.semantics.sharding import align, ceil_div

_ZERO = "https://github.com/deepspeedai/DeepSpeed/blob/edaa7221/deepspeed/runtime/zero/"
_S12, _S3 = _ZERO + "stage_1_and_2.py, ", _ZERO + "stage3.py, "

Stage = Literal[1, 2, 3]
Life = Literal["persistent", "load", "forward_backward", "backward", "backward_to_step", "step"]


DEFAULTS = Settings()


class Item(msgspec.Struct, frozen=True):
    """One allocation, or a list of them that live together.

    ``life``: ``persistent``; ``load`` while the engine is set up; ``forward_backward`` at most at any time in both;
    ``backward`` from its first gradient to its end; ``backward_to_step`` on to the optimizer's step; ``step`` while a
    parameter group (stage 3: sub-group) is stepped, the largest one's size.
    """

    name: str
    num_bytes: int
    component: Component
    life: Life
    source: str
    bound: bool = False


class Memory(msgspec.Struct, frozen=True):
    """Items, and elements of each flat tensor that the optimizer updates (in ``plan.master`` or ``plan.weights``)."""

    items: tuple[Item, ...]
    optimizer_numels: tuple[int, ...]

    def total(self, component: Component, life: Life = "persistent") -> int:
        """Bytes of the items of one component and life."""
        return sum(i.num_bytes for i in self.items if i.component is component and i.life == life)


def auto_settings(hidden_size: int, stage: Stage) -> Settings:
    """What Hugging Face fills where a DeepSpeed config says "auto" for the bucket sizes.

    Source: transformers 5.23: integrations/deepspeed.py, trainer_config_finalize.
    """
    square = hidden_size * hidden_size
    if stage < 3:
        return Settings(reduce_bucket_size=square)
    return Settings(
        reduce_bucket_size=square,
        prefetch_bucket_size=int(0.9 * square),
        param_persistence_threshold=10 * hidden_size,
    )


def memory(
    stage: Stage,
    groups: Sequence[Sequence[int]],
    plan: Plan,
    world: int,
    *,
    frozen: Sequence[int] = (),
    settings: Settings = DEFAULTS,
) -> Memory:
    """What rank 0 of ``world`` GPUs holds, apart from moments, activations and autograd's gradients.

    Args:
        groups: elements of each trainable parameter, by the optimizer's parameter groups; the Hugging Face Trainer
            makes two, decayed and not.
        frozen: elements of each parameter without a gradient.

    Raises:
        ConfigError: ``world`` < 2, or no trainable parameter.
    """
    if world < 2:
        raise ConfigError(f"parallelism.data must be >= 2 for ZeRO, got {world}", "use strategy none on one GPU")
    kept = [list(group) for group in groups if group]
    if not kept:
        raise ConfigError("ZeRO with no trainable parameter", "use mode inference")
    return _stage3(kept, plan, world, frozen, settings) if stage == 3 else _stage12(kept, plan, world, frozen, settings)


def _stage12(groups: list[list[int]], plan: Plan, world: int, frozen: Sequence[int], settings: Settings) -> Memory:
    """Stages 1 and 2 share their buffers; they differ in when gradients are reduced."""
    weight, master = ITEM_BYTES[plan.weights], ITEM_BYTES[plan.master or plan.weights]
    flats = [align(sum(group), 2 * world) for group in groups]
    parts = [flat // world for flat in flats]
    owned = [list(_starting_within(group, part)) for group, part in zip(groups, parts, strict=True)]
    largest = max(min(max(group), part) for group, part in zip(owned, parts, strict=True))
    bucket = settings.reduce_bucket_size * weight
    num_buckets = 2 if settings.overlap_comm else 1
    casts = plan.master != plan.weights
    items = [
        Item("weights", sum(flats) * weight, Component.WEIGHTS, "persistent", _S12 + "flatten_dense_tensors_aligned"),
        Item("frozen_weights", sum(frozen) * weight, Component.WEIGHTS, "persistent", _S12 + "trainable_parameters"),
        Item("masters", sum(parts) * master, Component.OPTIMIZER_STATES, "persistent", _S12 + "weights_partition"),
        Item("unflattened_weights", max(map(sum, groups)) * weight, Component.TEMPORARIES, "load",
             _S12 + "flatten_on_accelerator"),
        Item("state_init_gradients", sum(parts) * master, Component.TEMPORARIES, "load",
             _S12 + "initialize_optimizer_states"),
        Item("bucket", num_buckets * bucket, Component.COMMUNICATION, "backward", _S12 + "setup_buckets"),
        Item("reduce_copy", min(bucket, sum(map(sum, groups)) * weight), Component.COMMUNICATION, "backward",
             _S12 + "allreduce_bucket", bound=True),
        Item("gradient_partition", sum(map(sum, owned)) * weight, Component.GRADIENTS, "backward_to_step",
             _S12 + "copy_grads_in_partition"),
        Item("overflow_check", _overflow_bytes(largest, plan), Component.TEMPORARIES, "step",
             _S12 + "_has_inf_or_nan"),
        Item("norm", 8 * largest, Component.TEMPORARIES, "step", _S12 + "get_grad_norm_direct"),
        Item("flat_gradients", max(parts) * weight, Component.TEMPORARIES, "step", _S12 + "step, flat_grad_partition"),
        Item("step_gradients", max(parts) * master if casts else 0, Component.GRADIENTS, "step",
             _S12 + "step, single_grad_partition"),
    ]  # fmt: skip
    return Memory(tuple(i for i in items if i.num_bytes), tuple(parts))


def _stage3(groups: list[list[int]], plan: Plan, world: int, frozen: Sequence[int], settings: Settings) -> Memory:
    """Every parameter is partitioned on its own, padded to the world size; partitions are stepped by sub-groups."""
    weight, master = ITEM_BYTES[plan.weights], ITEM_BYTES[plan.master or plan.weights]
    trained = [numel for group in groups for numel in group]
    parts = [[ceil_div(numel, world) for numel in group] for group in groups]
    steps = [numel for group in parts for numel in _sub_groups(group, settings.sub_group_size)]
    whole = [numel for numel in (*trained, *frozen) if numel <= settings.param_persistence_threshold]
    gathered = [numel for numel in (*trained, *frozen) if numel > settings.param_persistence_threshold]
    part = sum(steps)
    bucket = settings.reduce_bucket_size * weight
    fetch = min(sum(gathered), settings.prefetch_bucket_size + max(gathered, default=0))
    items = [
        Item("weights", part * weight, Component.WEIGHTS, "persistent", _S3 + "lp_param_buffer"),
        Item("frozen_weights", sum(ceil_div(n, world) for n in frozen) * weight, Component.WEIGHTS, "persistent",
             _ZERO + "partition_parameters.py, _partition_numel"),
        Item("whole_weights", sum(whole) * weight, Component.WEIGHTS, "persistent",
             _ZERO + "parameter_offload.py, mark_persistent_parameters"),
        Item("masters", part * master if plan.master else 0, Component.OPTIMIZER_STATES, "persistent",
             _S3 + "_create_fp32_partitions"),
        Item("gradient_partition", part * ITEM_BYTES[plan.reduced], Component.GRADIENTS, "persistent",
             _S3 + "grad_partitions_flat_buffer"),
        Item("bucket", bucket, Component.COMMUNICATION, "persistent", _S3 + "_setup_for_real_optimizer"),
        Item("state_init_gradients", max(steps) * master, Component.TEMPORARIES, "load",
             _S3 + "initialize_optimizer_states"),
        Item("gathered_weights", min(sum(gathered), settings.max_live_parameters) * weight, Component.COMMUNICATION,
             "forward_backward", _ZERO + "partitioned_param_coordinator.py, __params_to_release", bound=True),
        Item("gather_output", fetch * weight, Component.COMMUNICATION, "forward_backward",
             _ZERO + "partition_parameters.py, AllGatherCoalescedHandle.wait", bound=True),
        Item("reduce_copy", min(bucket, sum(trained) * weight), Component.COMMUNICATION, "backward",
             "https://github.com/deepspeedai/DeepSpeed/blob/edaa7221/deepspeed/runtime/comm/coalesced_collectives.py, "
             "reduce_scatter_coalesced", bound=True),
        Item("overflow_check", 3 * part if plan.weights == "float16" else 0, Component.TEMPORARIES, "step",
             _S3 + "has_overflow (abs and ==), fp16 alone"),
        Item("norm", 8 * max(map(max, parts)), Component.TEMPORARIES, "step", _S3 + "get_grad_norm_direct"),
        Item("flat_gradients", max(steps) * weight, Component.TEMPORARIES, "step",
             _S3 + "_prepare_fp32_grad_for_sub_group"),
        Item("step_gradients", max(steps) * master if plan.master else 0, Component.GRADIENTS, "step",
             _S3 + "_prepare_fp32_grad_for_sub_group"),
    ]  # fmt: skip
    return Memory(tuple(i for i in items if i.num_bytes), tuple(steps))


def _starting_within(numels: Iterable[int], part: int) -> Iterable[int]:
    """Parameters that begin in rank 0's partition: each counts whole, the last one reaches beyond it."""
    start = 0
    for numel in numels:
        if start >= part:
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


def _overflow_bytes(numel: int, plan: Plan) -> int:
    """A float32 copy, three masks and a float32 mask of one gradient; not checked in full precision.

    Source: engine.py beside it, ``check_grad_overflow``.
    """
    return 0 if plan.weights == "float32" else 11 * numel

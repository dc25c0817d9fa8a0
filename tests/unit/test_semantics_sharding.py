"""Shards, FSDP units, DDP buckets and ZeRO figures: worked by hand, and monotone in the number of GPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import ConfigError
from memprof.model.timeline import Action, Component
from memprof.semantics import ddp, fsdp, zero
from memprof.semantics.precision import plan
from memprof.semantics.sharding import ShardedParameter, Stream, shard_bytes, shard_shape
from memprof.units import MiB

FSDP = plan("bf16-mixed", "fsdp")
ZERO = {stage: plan("bf16-mixed", f"zero{stage}") for stage in (1, 2, 3)}

shapes = st.lists(st.integers(1, 300), min_size=1, max_size=3).map(tuple)
parameters = st.lists(st.builds(ShardedParameter, shapes, st.just("float32"), st.booleans()), min_size=1, max_size=6)
worlds = st.integers(2, 64)
AUTOGRAD = ("gradients", "last_gradient")


def test_rank_0_has_the_largest_chunk_of_rows() -> None:
    assert shard_shape((10, 3), 4) == (3, 3)
    assert shard_shape((2, 5), 8) == (1, 5)


@given(shapes, worlds)
def test_shards_cover_the_parameter_and_pad_less_than_a_row_a_rank(shape: tuple[int, ...], world: int) -> None:
    parameter = ShardedParameter(shape, "float32")
    whole = shard_bytes(parameter, world) * world
    assert parameter.numel * 4 <= whole < parameter.numel * 4 + world * parameter.numel // shape[0] * 4


@given(parameters, worlds, st.integers(1, 64))
def test_more_shards_never_need_more_resident_bytes(drawn: list[ShardedParameter], world: int, more: int) -> None:
    few, many = fsdp.unit(drawn, FSDP, world), fsdp.unit(drawn, FSDP, world + more)
    assert many.shards.total <= few.shards.total
    assert many.sharded_gradients.total <= few.sharded_gradients.total


@given(parameters, worlds)
def test_an_fsdp_unit_gathers_what_it_computes_with(drawn: list[ShardedParameter], world: int) -> None:
    unit = fsdp.unit(drawn, FSDP, world)
    assert unit.gathered.total == unit.unsharded.total == unit.cast.total * world == unit.shards.total * world // 2
    assert unit.reduce_input.total == unit.sharded_gradients.total * world


@given(parameters, worlds, st.booleans(), st.integers(1, 2))
def test_every_buffer_of_a_step_is_made_once_and_freed_once(
    drawn: list[ShardedParameter], world: int, accumulate: bool, replicas: int
) -> None:
    unit = fsdp.unit(drawn, FSDP, world, replicas)
    moves = (
        *fsdp.FORWARD_ENTER,
        *fsdp.FORWARD_EXIT,
        *fsdp.BACKWARD_ENTER,
        *fsdp.backward_exit(unit, accumulate),
        *fsdp.backward_end(unit, accumulate),
    )
    balance: dict[str, int] = {}
    for action, buffer, _ in moves:
        if buffer not in AUTOGRAD and getattr(unit, buffer).num_bytes:
            balance[buffer] = balance.get(buffer, 0) + (1 if action is Action.ALLOC else -1)
    assert balance.pop("sharded_gradients", 0) == (unit.reduce_input.total > 0 and not accumulate)
    assert set(balance.values()) == {0}


def test_buffers_sit_on_the_streams_that_make_them() -> None:
    unit = fsdp.unit([ShardedParameter((8, 8), "float32")], FSDP, 2)
    assert (unit.gathered.stream, unit.unsharded.stream) == (Stream.COPY_IN, Stream.COMPUTE)
    assert (unit.reduce_input.stream, unit.sharded_gradients.stream) == (Stream.COMPUTE, Stream.REDUCE_SCATTER)


def test_weights_that_are_not_floating_point_are_gathered_as_they_are() -> None:
    unit = fsdp.unit([ShardedParameter((8, 1), "uint8", trainable=False)], FSDP, 2)
    assert (unit.gathered.total, unit.cast.total, unit.reduce_input.total) == (8, 0, 0)


def test_in_a_pure_precision_an_adapter_in_float32_keeps_its_dtype() -> None:
    base, adapter = ShardedParameter((8, 1), "bfloat16", trainable=False), ShardedParameter((8, 1), "float32")
    unit = fsdp.unit([base, adapter], plan("bf16", "fsdp"), 2)
    assert (unit.gathered.total, unit.cast.total) == (8 * 2 + 8 * 4, 0)
    assert (unit.reduce_input.total, unit.sharded_gradients.total, unit.gradient_dtype) == (32, 16, "float32")


def test_one_gpu_cannot_shard() -> None:
    with pytest.raises(ConfigError, match="got 1"):
        fsdp.unit([ShardedParameter((8,), "float32")], FSDP, 1)
    with pytest.raises(ConfigError, match="got 1"):
        zero.memory(1, [[8]], ZERO[1], 1)


def test_a_ddp_bucket_is_closed_by_the_tensor_that_fills_it() -> None:
    quarter = ((64 * 1024,), "float32")
    gradients = [quarter] * 5 + [((20 * MiB // 4,), "float32")] * 2
    assert ddp.rebuilt_buckets(gradients).num_bytes == (MiB, 40 * MiB + MiB // 4)
    assert ddp.first_buckets(gradients).num_bytes == (41 * MiB + MiB // 4,)


@given(st.lists(st.tuples(shapes, st.sampled_from(["float32", "bfloat16"])), max_size=20))
def test_ddp_buckets_hold_each_gradient_once(gradients: list[tuple[tuple[int, ...], str]]) -> None:
    assert ddp.rebuilt_buckets(gradients).total == ddp.first_buckets(gradients).total


@pytest.mark.parametrize(("stage", "gigabytes"), [(1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_model_states_are_those_of_its_paper(stage: zero.Stage, gigabytes: float) -> None:
    """7.5 B parameters on 64 GPUs. Source: https://arxiv.org/abs/1910.02054, figure 1."""
    count = 7_500_000_000
    found = zero.memory(stage, [[count // 1000] * 1000], ZERO[stage], 64)
    weights = next(i.num_bytes for i in found.items if i.name == "weights")
    masters = found.total(Component.OPTIMIZER_STATES)
    gradients = 2 * count if stage == 1 else next(i.num_bytes for i in found.items if i.name == "gradient_partition")
    moments = 2 * 4 * sum(found.optimizer_numels)
    assert (weights + masters + gradients + moments) / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_zero_2_worked_by_hand() -> None:
    """Two groups of 10 and 3 elements on 4 GPUs: padded to 16 and 8, so partitions of 4 and 2."""
    found = zero.memory(2, [[6, 4], [3]], ZERO[2], 4, frozen=[5], settings=zero.Settings(reduce_bucket_size=8))
    sizes = {item.name: item.num_bytes for item in found.items}
    assert found.optimizer_numels == (4, 2)
    assert sizes["weights"] == 24 * 2
    assert sizes["frozen_weights"] == 5 * 2
    assert sizes["masters"] == 6 * 4
    assert sizes["bucket"] == 8 * 2
    assert sizes["gradient_partition"] == (6 + 3) * 2  # a parameter that reaches beyond the partition counts whole
    assert (sizes["flat_gradients"], sizes["step_gradients"]) == (4 * 2, 4 * 4)


def test_zero_3_worked_by_hand() -> None:
    """10, 3 and 4 elements on 4 GPUs: partitions of 3, 1 and 1; sub-groups of at least 3 elements: [3], [1, 1]."""
    settings = zero.Settings(
        reduce_bucket_size=8, sub_group_size=3, param_persistence_threshold=3, max_live_parameters=12
    )
    found = zero.memory(3, [[10, 3, 4]], ZERO[3], 4, settings=settings)
    sizes = {item.name: item.num_bytes for item in found.items}
    assert found.optimizer_numels == (3, 2)
    assert (sizes["weights"], sizes["masters"], sizes["gradient_partition"]) == (5 * 2, 5 * 4, 5 * 2)
    assert (sizes["whole_weights"], sizes["gathered_weights"]) == (3 * 2, 12 * 2)
    assert (sizes["flat_gradients"], sizes["step_gradients"]) == (3 * 2, 3 * 4)


def test_overlapped_reduction_doubles_the_bucket() -> None:
    one, two = (zero.memory(2, [[8]], ZERO[2], 2, settings=zero.Settings(overlap_comm=on)) for on in (None, True))
    assert two.total(Component.COMMUNICATION, "backward") - one.total(Component.COMMUNICATION, "backward") == 10**9


def test_auto_settings_follow_the_hidden_size() -> None:
    assert zero.auto_settings(4096, 3).reduce_bucket_size == 4096 * 4096
    assert zero.auto_settings(4096, 3).param_persistence_threshold == 40960
    assert zero.auto_settings(4096, 2).param_persistence_threshold == zero.DEFAULTS.param_persistence_threshold


groups = st.lists(st.lists(st.integers(1, 10**7), min_size=1, max_size=8), min_size=1, max_size=2)


@given(groups, worlds, st.integers(1, 64), st.sampled_from([1, 2, 3]))
def test_more_gpus_never_need_more_masters_states_or_gradient_partitions(
    drawn: list[list[int]], world: int, more: int, stage: zero.Stage
) -> None:
    few, many = (zero.memory(stage, drawn, ZERO[stage], w) for w in (world, world + more))
    assert sum(many.optimizer_numels) <= sum(few.optimizer_numels)
    for component in (Component.OPTIMIZER_STATES, Component.GRADIENTS):
        assert many.total(component) <= few.total(component)
        assert many.total(component, "backward_to_step") <= few.total(component, "backward_to_step")


@given(groups, worlds, st.sampled_from([1, 2, 3]))
def test_zero_partitions_cover_all_parameters(drawn: list[list[int]], world: int, stage: zero.Stage) -> None:
    found = zero.memory(stage, drawn, ZERO[stage], world)
    total = sum(map(sum, drawn))
    assert total <= sum(found.optimizer_numels) * world < total + 2 * world * sum(map(len, drawn))
    assert all(item.num_bytes > 0 and item.source.startswith("https://") for item in found.items)

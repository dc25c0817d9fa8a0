"""Shards, FSDP units, DDP buckets and ZeRO figures: worked by hand, and monotone in the number of GPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import ConfigError
from memprof.model.scenario import Zero
from memprof.model.timeline import Action
from memprof.semantics import ddp, fsdp, zero
from memprof.semantics.precision import plan
from memprof.semantics.sharding import ShardedParameter, Stream, shard_bytes, shard_shape
from memprof.semantics.zero_gather import gathered_at_turn
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
        zero.memory(1, trained(8), ZERO[1], 1)


def test_a_ddp_bucket_is_closed_by_the_tensor_that_fills_it() -> None:
    quarter = ((64 * 1024,), "float32")
    gradients = [quarter] * 5 + [((20 * MiB // 4,), "float32")] * 2
    assert ddp.rebuilt_buckets(gradients).num_bytes == (MiB, 40 * MiB + MiB // 4)
    assert ddp.first_buckets(gradients).num_bytes == (41 * MiB + MiB // 4,)


@given(st.lists(st.tuples(shapes, st.sampled_from(["float32", "bfloat16"])), max_size=20))
def test_ddp_buckets_hold_each_gradient_once(gradients: list[tuple[tuple[int, ...], str]]) -> None:
    assert ddp.rebuilt_buckets(gradients).total == ddp.first_buckets(gradients).total


def trained(*numels: int) -> list[ShardedParameter]:
    return [ShardedParameter((numel,), "bfloat16") for numel in numels]


def sizes(found: zero.Memory) -> dict[str, int]:
    return {name: item.num_bytes for name, item in found.items.items()}


@pytest.mark.parametrize(("stage", "gigabytes"), [(1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_model_states_are_those_of_its_paper(stage: zero.Stage, gigabytes: float) -> None:
    """7.5 B parameters on 64 GPUs. Source: https://arxiv.org/abs/1910.02054, figure 1."""
    count = 7_500_000_000
    found = zero.memory(stage, trained(*[count // 1000] * 1000), ZERO[stage], 64)
    held = sizes(found)
    gradients = 2 * count if stage == 1 else held["gradient_partition"]
    moments = 2 * 4 * sum(found.optimizer_numels)
    assert (held["weights"] + held["masters"] + gradients + moments) / 1e9 == pytest.approx(gigabytes, rel=0.02)


@pytest.mark.parametrize(("stage", "owned"), [(1, 6), (2, 3)])
def test_zero_1_and_2_worked_by_hand(stage: zero.Stage, owned: int) -> None:
    """13 elements on 4 ranks: padded to 16, partitions of 4. A parameter that reaches beyond its own counts whole."""
    parameters = [*trained(6, 4, 3), ShardedParameter((5,), "bfloat16", trainable=False)]
    found = zero.memory(stage, parameters, ZERO[stage], 4, settings=Zero(reduce_bucket_size=8))
    held = sizes(found)
    assert found.optimizer_numels == (4,)
    assert (held["weights"], held["frozen_weights"], held["unflattened_weights"]) == (16 * 2, 5 * 2, 13 * 2)
    assert (held["masters"], held["master_clone"], held["init_gradients"]) == (4 * 4, 4 * 2, 4 * 4)
    assert (held["bucket"], held["gradient_partition"]) == (8 * 2, owned * 2)
    assert (held["flat_gradients"], held["step_gradients"]) == (4 * 2, 4 * 4)


def test_zero_3_worked_by_hand() -> None:
    """10, 3 and 4 elements on 4 ranks: partitions of 3, 1 and 1; sub-groups of at least 3 elements: [3], [1, 1].

    As the forward ends the parameters of 10 and 4 are there, which were gathered one by one: 12 and 4 when padded.
    """
    settings = Zero(reduce_bucket_size=8, sub_group_size=3, param_persistence_threshold=3, prefetch_bucket_size=0)
    found = zero.memory(3, trained(10, 3, 4), ZERO[3], 4, settings=settings)
    held = sizes(found)
    assert found.optimizer_numels == (3, 2)
    assert (held["weights"], held["masters"], held["gradient_partition"]) == (5 * 2, 5 * 4, 5 * 2)
    assert (held["whole_weights"], held["gathered_weights"]) == (3 * 2, 16 * 2)
    assert (held["flat_gradients"], held["step_gradients"]) == (3 * 2, 3 * 4)


def test_gloo_and_copies_on_the_host_are_memory_on_a_cpu_alone() -> None:
    assert "gather_scratch" in sizes(zero.memory(1, trained(8), ZERO[1], 2, kind="cpu"))
    assert "gather_scratch" not in sizes(zero.memory(1, trained(8), ZERO[1], 2))
    cpu, cuda = (sizes(zero.memory(3, trained(8), ZERO[3], 2, kind=kind)) for kind in ("cpu", "cuda"))
    assert (cpu["partitions"], "partitions" in cuda) == (4 * 2, False)
    assert cpu["hooked_weight"] == 2 * cuda["hooked_weight"]


def test_gradients_are_reduced_as_the_next_one_does_not_fit() -> None:
    twelve = zero.memory(2, trained(8), ZERO[2], 2, settings=Zero(reduce_bucket_size=12)).reduction
    assert list(twelve.before_each([5, 5, 5, 20, 1])) == [0, 0, 20, 10, 40, 2]
    padded = zero.memory(3, trained(8), ZERO[3], 2, settings=Zero(reduce_bucket_size=12), kind="cpu").reduction
    assert list(padded.before_each([5, 5, 5, 20, 1])) == [0, 0, 48, 24, 40, 8]  # 20 alone is scratch, and no copy


def test_overlapped_reduction_doubles_the_bucket() -> None:
    one, two = (sizes(zero.memory(2, trained(8), ZERO[2], 2, settings=Zero(overlap_comm=on))) for on in (None, True))
    assert two["bucket"] - one["bucket"] == 10**9


def test_auto_sizes_follow_the_hidden_size() -> None:
    autos = Zero(reduce_bucket_size="auto", prefetch_bucket_size="auto", param_persistence_threshold="auto")
    sizes = Zero(reduce_bucket_size=100, prefetch_bucket_size=90, param_persistence_threshold=100)
    assert zero.resolved(autos, 10) == sizes
    assert zero.resolved(sizes, None) == sizes
    assert zero.resolved(None, None) == zero.DEFAULTS
    with pytest.raises(ConfigError, match=r"parallelism\.zero\.reduce_bucket_size is auto"):
        zero.resolved(autos, None)


numels = st.lists(st.integers(1, 10**7), min_size=1, max_size=12)


@given(numels, worlds, st.integers(1, 64), st.sampled_from([1, 2, 3]))
def test_more_gpus_never_need_more_masters_or_states(
    drawn: list[int], world: int, more: int, stage: zero.Stage
) -> None:
    few, many = (zero.memory(stage, trained(*drawn), ZERO[stage], w) for w in (world, world + more))
    assert sum(many.optimizer_numels) <= sum(few.optimizer_numels)
    assert sizes(many)["masters"] <= sizes(few)["masters"]


@given(numels, worlds, st.sampled_from([1, 2, 3]))
def test_zero_partitions_cover_all_parameters(drawn: list[int], world: int, stage: zero.Stage) -> None:
    found = zero.memory(stage, trained(*drawn), ZERO[stage], world)
    assert sum(drawn) <= sum(found.optimizer_numels) * world < sum(drawn) + 2 * world * len(drawn)
    assert all(item.num_bytes > 0 for item in found.items.values())


@given(numels, worlds, st.sampled_from([1, 2, 3]), st.sampled_from(["cpu", "cuda"]))
def test_what_zero_frees_was_made(drawn: list[int], world: int, stage: zero.Stage, kind: str) -> None:
    found = zero.memory(stage, trained(*drawn), ZERO[stage], world, kind=kind)
    alive = {"gradient_partition"} if stage < 3 else set()
    for moment in ("load", "forward", "gradients", "reduced", "prepared", "step", "stepped"):
        for move in found.moves.get(moment, ()):
            assert (move.name in alive) == move.frees
            (alive.discard if move.frees else alive.add)(move.name)
    assert alive <= {"weights", "frozen_weights", "masters", "bucket", "gradient_partition", "whole_weights"}


def test_coordinator_gathered_what_a_real_one_did() -> None:
    """A Llama of 3 layers over 2 ranks with DeepSpeed 0.19.8: 419,072 bytes in float32 as the forward ended."""
    layer = [64 * 64, 64 * 32, 64 * 32, 64 * 64, 64 * 136, 64 * 136, 64 * 136]
    settings = Zero(prefetch_bucket_size=20_000, max_live_parameters=100_000, max_reuse_distance=50_000)
    assert gathered_at_turn([301 * 64, *layer * 3, 301 * 64], 2, settings) * 4 == 419_072


@given(numels, worlds)
def test_all_is_gathered_where_nothing_limits_it_and_only_what_is_used_where_all_does(
    drawn: list[int], world: int
) -> None:
    padded = [-(-numel // world) * world for numel in drawn]
    kept = gathered_at_turn(drawn, world, Zero(max_reuse_distance=10**12, prefetch_bucket_size=0))
    assert kept == sum(padded)
    assert gathered_at_turn(drawn, world, Zero(max_reuse_distance=0, prefetch_bucket_size=0)) == padded[-1]

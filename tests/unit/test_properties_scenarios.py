"""What holds for every scenario that the engine answers, over the whole catalog of models and devices."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from memprof import api
from memprof.allocator import folded
from memprof.analytic.engine import Played
from memprof.errors import MemprofError
from memprof.model.scenario import Scenario
from memprof.model.timeline import Action, Component
from tests.support.scenarios import ANY, TRAINING, can_be, change, played

FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
THOUSANDS = settings(FEW, max_examples=2000)

CONTRACT = {
    "schema_version", "memprof_version", "engine", "scenario", "device", "num_parameters", "num_trainable_parameters",
    "peak", "at_peak_bytes", "persistent_bytes", "phase_peak_bytes", "overhead_bytes", "bounds", "verdict", "time",
    "host_bytes", "timeline", "modules_at_peak", "alternatives", "evidence", "warnings", "made",
}  # fmt: skip


def peak_of(play: Played) -> int:
    return folded.peaks(play.timeline).num_bytes


def kernels(play: Played) -> set[str]:
    return {name for name in play.timeline.ops.name if "[" in name}


def is_sound(scenario: Scenario) -> None:
    """A refusal is one line; any other exception fails the test."""
    try:
        play = played(scenario)
    except MemprofError as error:
        lines = str(error).splitlines()
    else:
        adds_up(play)
        assert played(scenario).timeline == play.timeline
        lines = ["answered"]
    assert len(lines) == 1


def adds_up(play: Played) -> None:
    """Nothing is negative, nothing is freed that was not made, and the parts of the peak sum to it."""
    timeline = play.timeline
    peaks = folded.peaks(timeline)
    assert min(timeline.blocks.num_bytes) >= 0
    assert play.num_trainable >= 0
    assert peaks.num_bytes == max(peaks.stages.values()) == max(peaks.phases.values())
    held = folded.alive(timeline, peaks.point)
    assert sum(held.components.values()) == sum(held.modules.values()) == peaks.num_bytes
    assert min(held.components.values()) > 0
    assert min(held.modules.values()) > 0
    assert folded.peaks(timeline, 512).num_bytes >= peaks.num_bytes
    assert all(saved.num_bytes > 0 and saved.count > 0 for saved in play.saved)
    events = [(a, b) for segment in timeline.segments for a, b in zip(segment.action, segment.block, strict=True)]
    assert {block for _, block in events} <= {block for action, block in events if action == Action.ALLOC}


@FEW
@given(ANY)
def test_a_scenario_is_answered_soundly_or_refused_in_one_line(scenario: Scenario) -> None:
    is_sound(scenario)


@pytest.mark.slow
@THOUSANDS
@given(ANY)
def test_thousands_of_scenarios_are_answered_soundly_or_refused(scenario: Scenario) -> None:
    is_sound(scenario)


@settings(FEW, max_examples=15)
@given(ANY.filter(can_be))
def test_a_result_holds_the_contract_s_keys_and_its_sums(scenario: Scenario) -> None:
    result = api.estimate(scenario)
    assert {field for field in CONTRACT if hasattr(result, field)} == CONTRACT
    assert sum(result.at_peak_bytes.values()) == result.peak.allocated_bytes
    assert set(result.at_peak_bytes) == {component.value for component in Component} | {"rounding"}
    assert min(result.at_peak_bytes.values()) >= 0
    assert result.peak.requested_bytes <= result.peak.allocated_bytes
    if result.peak.reserved_bytes is not None:
        assert result.peak.allocated_bytes <= result.peak.reserved_bytes
    assert all(value is None or value >= 0 for value in result.phase_peak_bytes.values())
    assert {"weights", "gradients", "optimizer_states"} == set(result.persistent_bytes)


@FEW
@given(ANY.filter(can_be), st.integers(1, 4))
def test_a_larger_batch_never_needs_less(scenario: Scenario, more: int) -> None:
    larger = change(scenario, batch={"micro_batch_size": scenario.batch.micro_batch_size + more})
    needs_more(scenario, larger)


@FEW
@given(ANY.filter(can_be), st.integers(1, 300))
def test_a_longer_sequence_never_needs_less(scenario: Scenario, more: int) -> None:
    assert scenario.batch.sequence_length is not None
    longer = change(scenario, batch={"sequence_length": scenario.batch.sequence_length + more})
    assume(can_be(longer))
    needs_more(scenario, longer)


def needs_more(scenario: Scenario, other: Scenario) -> None:
    small, large = played(scenario), played(other)
    assume(kernels(small) == kernels(large))
    assert peak_of(small) <= peak_of(large)


@FEW
@given(TRAINING.map(lambda s: change(s, checkpointing="none")).filter(can_be))
def test_checkpointing_never_saves_more(scenario: Scenario) -> None:
    assume(scenario.quantization != "int8")  # bitsandbytes' int8 layers keep their input past checkpoints
    without, with_it = played(scenario), played(change(scenario, checkpointing="full"))
    assert saved_bytes(with_it) <= saved_bytes(without)


def saved_bytes(play: Played) -> int:
    return sum(saved.num_bytes * saved.count for saved in play.saved)


@FEW
@given(TRAINING, st.sampled_from(("zero1", "zero2", "zero3", "fsdp", "hsdp")), st.integers(1, 3), st.integers(1, 3))
def test_more_shards_never_need_more_per_gpu(scenario: Scenario, strategy: str, power: int, more: int) -> None:
    """For states that are not quantized, over 2 to 64 GPUs.

    Not for adapters: FSDP deals out rows, so that what it gathers of a matrix of few rows is padded to one row a GPU.
    """
    parallelism = {"strategy": strategy, "data": 2**power, "replicate": 2 if strategy == "hsdp" else 1}
    few = change(scenario, quantization=None, adapter=None, parallelism=parallelism)
    many = change(few, parallelism={"data": 2 ** (power + more)})
    assume(not few.optimizer.name.endswith("-8bit"))
    assume(can_be(few))
    assume(can_be(many))
    assert peak_of(played(many)) <= peak_of(played(few))

"""What a verification says of records, what suites hold, and what becomes of statements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from memprof.catalog.device_catalog import device
from memprof.errors import ConfigError, MeasurementError
from memprof.model import claims as model
from memprof.model.consistency import check
from memprof.model.evidence import Environment, Evidence, Measurement, Prediction
from memprof.model.scenario import Compile, Scenario
from memprof.model.verification import Verification
from memprof.verify import claims as statements
from memprof.verify import room, suite
from memprof.verify.figures import Seen, figure
from memprof.verify.journal import Journal
from memprof.verify.pairing import verified
from memprof.verify.run import portable
from memprof.views import claims_text, verification_text
from memprof.views.terminal import PLAIN

GPT2 = Scenario(model="gpt2", device="cpu")


def record(said: int | None = 1000, measured: int = 1000, **fields: Any) -> Evidence:
    told = Prediction(peak_requested_bytes=said, refused=None if said else "not modelled")
    return Evidence(
        **{
            "name": "run",
            "environment": Environment(device="cpu"),
            "scenario": GPT2,
            "status": "ok",
            "measured": Measurement(peak_requested_bytes=measured),
            "predicted": {"trace": told},
            **fields,
        }
    )


@pytest.mark.parametrize(("said", "passes"), [(1000, True), (1009, True), (991, True), (1011, False), (989, False)])
def test_a_trace_on_the_cpu_passes_within_one_percent(said: int, passes: bool) -> None:
    assert verified(record(said)).passes is passes


def test_the_analytic_engine_is_given_three_percent() -> None:
    run = record(predicted={"analytic": Prediction(peak_requested_bytes=1029)})
    assert verified(run).passes
    assert not verified(record(predicted={"analytic": Prediction(peak_requested_bytes=1031)})).passes


def test_a_run_that_nothing_predicts_fails_unless_it_is_compiled() -> None:
    assert not verified(record(None)).passes
    compiled = msgspec.structs.replace(GPT2, compile=Compile())
    run = verified(record(None, scenario=compiled))
    assert run.passes
    assert "recorded; no engine predicts it yet" in verification_text.render(
        Verification(memprof_version="1", runs=[run]), PLAIN
    )


@pytest.mark.parametrize(("verdict", "passes"), [("does_not_fit", True), ("fits", False), ("tight", False)])
def test_running_out_of_memory_passes_where_it_was_predicted(verdict: str, passes: bool) -> None:
    told = {"analytic": Prediction(peak_requested_bytes=1000, status=verdict)}
    assert verified(record(status="oom", predicted=told)).passes is passes


@pytest.mark.parametrize("status", ["crash", "timeout", "error"])
def test_what_did_not_end_well_fails_and_says_why(status: str) -> None:
    run = verified(record(status=status, message="ended by SIGABRT"))
    assert not run.passes
    assert f"run: {status}: ended by SIGABRT" in verification_text.render(
        Verification(memprof_version="1", runs=[run]), PLAIN
    )


@pytest.mark.parametrize("name", ["cpu", "h100"])
def test_each_run_of_a_suite_is_sound_bounded_and_named_once(name: str) -> None:
    jobs = suite.jobs(name)
    assert len({job.name for job in jobs}) == len(jobs)
    for job in jobs:
        check(job.scenario)
        assert job.time_limit_s <= 600
        assert (job.scenario.device == "cpu") is (name == "cpu")


def test_the_suite_of_an_h100_is_planned_for_half_an_hour_and_caps_a_larger_card() -> None:
    jobs = suite.jobs("h100")
    planned = [job.planned_s for job in jobs if job.planned_s is not None]
    assert len(planned) == len(jobs) >= 40
    assert 1200 <= sum(planned) <= 1600
    assert {job.limit_bytes for job in jobs} == {79 << 30}


def test_the_suites_cover_what_scenarios_can_be() -> None:
    found = [job.scenario for job in (*suite.jobs("cpu"), *suite.jobs("h100"))]
    assert {s.precision for s in found} == {"fp32", "bf16", "fp16", "bf16-mixed", "fp16-mixed"}
    assert {s.optimizer.name for s in found} >= {"adamw", "sgd", "adafactor", "adamw-8bit", "paged-adamw-8bit"}
    assert {s.optimizer.implementation for s in found} == {"auto", "fused", "foreach", "for-loop"}
    assert {s.parallelism.strategy for s in found} == {"none", "ddp", "fsdp", "hsdp"}
    assert {s.quantization for s in found} == {None, "nf4", "nf4-double", "int8"}
    assert {s.compile.mode for s in found if s.compile} == {"default", "reduce-overhead", "max-autotune"}
    assert {s.mode for s in found} == {"train", "inference"}
    assert any(s.adapter and s.quantization for s in found)
    assert any(s.adapter and not s.quantization for s in found)
    assert {s.attention for s in found} == {
        "sdpa", "eager", "sdpa-math", "sdpa-efficient", "sdpa-flash", "sdpa-cudnn",
    }  # fmt: skip
    sharded = next(s for s in found if s.model == "opt-350m" and s.parallelism.data == 32)
    assert (sharded.precision, sharded.checkpointing) == ("fp16-mixed", "full")
    assert (sharded.batch.micro_batch_size, sharded.batch.gradient_accumulation_steps) == (8, 4)


def test_another_card_runs_what_may_fit_on_it() -> None:
    jobs = suite.jobs("h100")
    assert suite.suited(jobs, device("h200-141gb")) == jobs
    found = {job.name: job for job in suite.suited(jobs, device("rtx-4090-24gb"))}
    assert {"h100/llama-3.2-1b", "h100/resnet-50"} <= set(found)
    assert not {"h100/llama-13b-adamw-8bit", "h100/llama-3.1-8b-sgd"} & set(found)
    assert {(job.scenario.device, job.limit_bytes) for job in found.values()} == {("rtx-4090-24gb", None)}


def test_a_suite_changes_fields_of_a_scenario_under_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: gpt2\ndevice: cpu\n")
    (tmp_path / "suites.yaml").write_text(
        "s:\n  limit: 1GiB\n  runs:\n"
        "    - {scenario: a.yaml}\n"
        "    - {scenario: a.yaml, name: b, set: {batch.micro_batch_size: 3}, time_limit_s: 5}\n"
    )
    first, second = suite.jobs("s", tmp_path)
    assert (first.name, first.scenario.batch.micro_batch_size, first.limit_bytes) == ("a", 1, 1 << 30)
    assert (second.name, second.scenario.batch.micro_batch_size, second.time_limit_s) == ("b", 3, 5)


def test_a_misspelt_suite_or_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean h100"):
        suite.jobs("h10")
    (tmp_path / "suites.yaml").write_text("s: {run: []}\n")
    with pytest.raises(ConfigError, match="unknown field"):
        suite.jobs("s", tmp_path)


def test_a_record_holds_the_config_of_a_model_that_is_a_file() -> None:
    scenario = suite.scenario_of(suite.SCENARIOS / "cpu" / "llama-10m-lora.yaml")
    stated, config = portable(scenario)
    assert stated.model == "llama-10m.json"
    assert config["model_type"] == "llama"
    assert portable(GPT2) == (GPT2, {})


def test_a_journal_gives_back_what_was_recorded_until_it_is_closed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    journal.add(record())
    with (tmp_path / "unfinished-s.jsonl").open("a") as file:
        file.write('{"name": "cut o')  # what a kill leaves
    again = Journal(tmp_path, "s")
    assert again.records == {"run": record()}
    again.add(record(name="second"))
    assert set(Journal(tmp_path, "s").records) == {"run", "second"}
    assert Journal(tmp_path, "other").records == {}
    again.close()
    assert Journal(tmp_path, "s").records == {}


def test_a_run_beyond_the_host_is_refused_and_an_unknown_one_let_through() -> None:
    room.refuse_beyond([("small", GPT2), ("unknown", Scenario(model="a:b", device="cpu"))], 64 << 30)
    with pytest.raises(MeasurementError, match="small needs about"):
        room.refuse_beyond([("small", GPT2)], 1 << 30)
    room.refuse_beyond([("on a card", Scenario(model="gpt2"))], 1 << 30)
    room.refuse_beyond([("small", GPT2)], None)


def test_figures_of_two_runs() -> None:
    before = Seen(peak_bytes=8, activation_bytes=4, state_bytes=8, step_s=1.0)
    after = Seen(peak_bytes=6, activation_bytes=1, state_bytes=2, step_s=1.25)
    assert figure("peak", after, before) == 0.75
    assert figure("activations_saved", after, before) == 0.75
    assert figure("optimizer_states", after, before) == 0.25
    assert figure("more_time", after, before) == 0.25
    assert figure("more_speed", after, before) == pytest.approx(-0.2)
    assert figure("bytes_a_parameter", Seen(peak_bytes=12, num_parameters=2), None) == 6
    assert figure("peak", Seen(), before) is None


@pytest.mark.parametrize("machine", ["cpu", "h100"])
def test_each_statement_has_its_runs_on_each_machine(machine: statements.Machine) -> None:
    found = statements.claims(machine)
    assert len({claim.text for claim in found}) == len(found) >= 9
    for claim in found:
        assert claim.expected
        assert bool(claim.jobs) is (claim.loads is None)
        for job in claim.jobs:
            check(job.scenario)
            assert (job.scenario.device == "cpu") is (machine == "cpu")


def statement(measured: float | None, predicted: float | None) -> model.Tested:
    said = model.Range(low=0.45, high=0.55)
    return model.Tested(
        claim="It halves memory.", runs=[], figure="peak", said=said, predicted=predicted, measured=measured
    )


@pytest.mark.parametrize(
    ("measured", "predicted", "words"),
    [
        (0.5, 0.5, "holds; as predicted"),
        (0.5, 0.9, "holds"),
        (0.9, 0.91, "does not hold: 0.90, not 0.45 to 0.55; as predicted"),
        (0.9, None, "does not hold: 0.90, not 0.45 to 0.55"),
        (None, 0.5, "not shown"),
    ],
)
def test_a_verdict_is_of_what_was_measured(measured: float | None, predicted: float | None, words: str) -> None:
    assert claims_text.in_words(statement(measured, predicted)) == words
    text = claims_text.render(
        model.Claims(memprof_version="1", device="cpu", tested=[statement(measured, predicted)]),
        PLAIN._replace(width=200),
    )
    assert words in text


def test_statements_are_judged_by_the_records_of_their_runs() -> None:
    [claim] = [each for each in statements.claims("cpu") if "halves" in each.text]
    before, after = (job.name for job in claim.jobs)
    runs = [record(200, 210, name=before), record(100, 100, name=after)]
    [found] = statements.tested([claim], runs)
    assert (found.predicted, found.measured, found.verdict) == (0.5, pytest.approx(0.476, abs=1e-3), "holds")
    crashed = record(name=after, status="crash", message="ended by SIGABRT")
    [found] = statements.tested([claim], [runs[0], crashed])
    assert found.verdict == "not shown"
    assert "ended by SIGABRT" in found.why

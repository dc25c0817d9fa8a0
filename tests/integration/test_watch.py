"""A plain loop that is watched, what MLflow gets of it, and the tape of an out-of-memory error."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import memprof
from memprof.errors import ConfigError, UsageError
from memprof.integrations import oom_tape
from memprof.model.scenario import Batch, Optimizer, Scenario


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=211, hidden_size=64, intermediate_size=136, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def batch(length: int) -> dict[str, torch.Tensor]:
    ids = torch.zeros((2, length), dtype=torch.long)
    return {"input_ids": ids, "labels": ids}


def test_a_models_steps_are_predicted_from_itself(model: LlamaForCausalLM) -> None:
    optimizer = torch.optim.SGD(model.parameters())
    with memprof.watch(model, arguments={"optim": "sgd", "max_grad_norm": 0}) as watch:
        for length in (8, 32):
            inputs = batch(length)
            with watch.step(inputs):
                model(**inputs).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    assert watch.scenario.optimizer == Optimizer(name="sgd", weight_decay=0.0)
    assert watch.scenario.precision == "fp32"
    assert [step.batch for step in watch.steps] == [
        Batch(micro_batch_size=2, sequence_length=length) for length in (8, 32)
    ]
    short, long = (step.predicted for step in watch.steps)
    assert short is not None
    assert long is not None
    assert 0 < short.peak.allocated_bytes < long.peak.allocated_bytes
    assert all(step.used.resident_bytes for step in watch.steps)
    assert all(step.error is None for step in watch.steps), "resident bytes are not compared"


@pytest.mark.parametrize("make", [lambda path: path, str, lambda _: {"model": "gpt2", "device": "cpu"}])
def test_a_loop_is_watched_by_its_scenario(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("{model: gpt2, device: cpu}")
    with memprof.watch(make(path)) as watch, watch.step():
        pass
    assert watch.steps[0].batch == watch.scenario.batch
    assert watch.steps[0].predicted is not None


def test_a_scenario_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size"), memprof.watch({"model": "gpt2", "batch_size": 3}):
        pass


def test_a_step_that_fails_is_no_step() -> None:
    with memprof.watch(Scenario(model="gpt2", device="cpu")) as watch:
        with pytest.raises(ZeroDivisionError), watch.step():
            raise ZeroDivisionError
        assert not watch.steps


# ---- MLflow ----


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    library = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    library.set_tracking_uri((tmp_path / "runs").as_uri())
    yield library
    library.end_run()
    library.set_tracking_uri(None)


@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow")
def test_each_steps_figures_are_metrics_of_the_open_run(mlflow: Any) -> None:
    with mlflow.start_run() as run, memprof.watch(Scenario(model="gpt2", device="cpu")) as watch:
        for _ in range(2):
            with watch.step():
                pass
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "memprof/predicted_allocated_bytes")
    predicted = watch.steps[0].predicted
    assert predicted is not None
    assert [(metric.step, metric.value) for metric in history] == [
        (number, predicted.peak.allocated_bytes) for number in (1, 2)
    ]
    artifact = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="memprof/estimate.json")
    assert json.loads(Path(artifact).read_text())["peak"]["allocated_bytes"] == predicted.peak.allocated_bytes


def test_without_an_open_run_nothing_is_logged(mlflow: Any, tmp_path: Path) -> None:
    with memprof.watch(Scenario(model="gpt2", device="cpu")) as watch, watch.step():
        pass
    assert not list(tmp_path.rglob("meta.yaml"))


# ---- out of memory ----


@pytest.fixture
def observers(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., None]]:
    """What PyTorch would call; there is no card to run out of."""
    found: list[Callable[..., None]] = []
    monkeypatch.setattr(torch._C, "_cuda_attach_out_of_memory_observer", found.append, raising=False)
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **_: None)
    monkeypatch.setattr("memprof.measure.cuda.write_history", lambda path: Path(path).write_text("history"))
    return found


def test_an_out_of_memory_error_leaves_one_tape(
    tmp_path: Path, observers: list[Callable[..., None]], caplog: pytest.LogCaptureFixture
) -> None:
    tape = tmp_path / "oom.tape"
    oom_tape.arm(str(tape), on_cuda=True)
    assert not tape.exists()
    with caplog.at_level(logging.ERROR, "memprof"):
        for _ in range(2):
            observers[0](0, 1 << 30, 0, 0)
    assert tape.read_text() == "history"
    assert len(caplog.records) == 1


def test_a_tape_that_is_there_is_kept(tmp_path: Path, observers: list[Callable[..., None]]) -> None:
    tape = tmp_path / "oom.tape"
    tape.write_text("another run's")
    with pytest.raises(UsageError, match="is there already"):
        oom_tape.arm(str(tape), on_cuda=True)
    assert not observers

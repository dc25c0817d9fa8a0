"""``memprof estimate --engine trace``: catalog models, configs, factories, and what cannot be traced."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memprof import api
from memprof.errors import MemprofError, ModelError, UnsupportedError
from memprof.model.decode import decode

ROOT = Path(__file__).parents[2]
FACTORIES = "tests.support.trace_factories"


def memprof(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "memprof", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )


def estimate(model: str, **changes: object) -> api.Result:
    return api.estimate(decode({"model": model, "device": "cpu", "precision": "fp32", **changes}), engine="trace")


def test_the_answer_goes_to_stdout_and_the_progress_to_stderr() -> None:
    done = memprof(
        "estimate", "gpt2", "--engine", "trace", "--json", "--seq", "32", "--precision", "fp32", "--device", "cpu"
    )
    result = json.loads(done.stdout)
    assert result["engine"] == "trace"
    assert result["evidence"]["rung"] == "traced"
    assert result["made"]["software"]["torch"]
    assert result["num_parameters"] == 124_439_808
    assert sum(result["at_peak_bytes"].values()) == result["peak"]["allocated_bytes"]
    assert "backward" in done.stderr
    assert "Traceback" not in done.stderr


def test_both_engines_agree_on_a_family_that_both_know() -> None:
    scenario = decode({"model": "gpt2", "device": "cpu", "precision": "fp32", "batch": {"sequence_length": 64}})
    traced, analysed = (api.estimate(scenario, engine=engine) for engine in ("trace", "analytic"))
    assert traced.persistent_bytes["weights"] == analysed.persistent_bytes["weights"]
    assert traced.peak.requested_bytes == pytest.approx(analysed.peak.requested_bytes, rel=1e-4)
    assert (traced.peak.phase, traced.peak.module) == (analysed.peak.phase, analysed.peak.module)


def test_a_model_that_the_analytic_engine_has_no_program_for_is_traced_by_itself(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config.write_text(json.dumps({"model_type": "electra", "architectures": ["ElectraForMaskedLM"], **sizes}))
    result = api.estimate(decode({"model": str(config), "device": "cpu", "precision": "fp32"}))
    assert result.engine == "trace"
    assert result.scenario["task"] == "masked-lm"


@pytest.mark.parametrize("factory", ["regression", "scalar", "half"])
def test_a_factory_s_model_is_traced(factory: str) -> None:
    result = estimate(f"{FACTORIES}:{factory}")
    assert result.peak.requested_bytes > result.persistent_bytes["weights"] > 0
    assert result.persistent_bytes["gradients"] == result.persistent_bytes["weights"]


def test_a_factory_is_given_the_batch_size_that_it_names() -> None:
    once, twice = (estimate(f"{FACTORIES}:regression", batch={"micro_batch_size": n}) for n in (1, 2))
    assert twice.at_peak_bytes["inputs"] == 2 * once.at_peak_bytes["inputs"]


@pytest.mark.parametrize(
    ("factory", "error", "said"),
    [
        ("data_dependent", UnsupportedError, r"module '1': aten\.\w+ depends on the values of real data"),
        ("custom_op", UnsupportedError, r"module '0': .*memprof_tests.*without_fake.*fake"),
        ("mismatched", ModelError, r"module '1' failed at .*same reduction dim"),
        ("lossless", ModelError, "no loss"),
        ("raising", ModelError, "failed with KeyError: 'weights'"),
        ("number", ModelError, "returned int, not a torch.nn.Module"),
        ("absent", ModelError, "has no function absent"),
    ],
)
def test_what_cannot_be_traced_is_one_line(factory: str, error: type[MemprofError], said: str) -> None:
    with pytest.raises(error, match=said) as raised:
        estimate(f"{FACTORIES}:{factory}")
    assert "\n" not in str(raised.value)
    assert raised.value.hint


def test_zero_is_left_to_the_analytic_engine() -> None:
    with pytest.raises(UnsupportedError, match="does not trace DeepSpeed's ZeRO"):
        estimate("gpt2", device="h100-80gb", parallelism={"strategy": "zero2", "data": 8})


@pytest.mark.parametrize("name", ["paged-adamw", "paged-lion", "paged-adamw-8bit"])
def test_states_of_a_paged_optimizer_are_no_memory_of_the_device(name: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "n_embd": 256, "n_layer": 2, "n_head": 4, "vocab_size": 4096}))
    batch, optimizer = {"sequence_length": 32}, {"name": name}
    scenario = decode({"model": str(config), "precision": "bf16", "batch": batch, "optimizer": optimizer})
    traced, analysed = (api.estimate(scenario, engine=engine) for engine in ("trace", "analytic"))
    assert traced.persistent_bytes == analysed.persistent_bytes
    assert traced.peak.requested_bytes == pytest.approx(analysed.peak.requested_bytes, abs=64)
    assert traced.persistent_bytes["optimizer_states"] < traced.persistent_bytes["weights"] / 4

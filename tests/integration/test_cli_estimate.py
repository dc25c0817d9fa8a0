"""`memprof estimate` from the command line to the answer; the engine's numbers are not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memprof import api
from memprof.__main__ import main
from memprof.commands.progress import report_progress
from memprof.model.result import Result, Verdict
from memprof.model.scenario import Scenario, to_builtins
from tests.support.results import make_result


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Scenario, dict[str, Any]]]:
    """Puts a result made by hand in the engine's place, and keeps what it was asked."""
    calls: list[tuple[Scenario, dict[str, Any]]] = []

    def estimate(scenario: Scenario, **options: Any) -> Result:
        calls.append((scenario, options))
        return make_result(scenario=to_builtins(scenario))

    monkeypatch.setattr(api, "estimate", estimate)
    return calls


Asked = list[tuple[Scenario, dict[str, Any]]]


def test_each_flag_sets_its_field(asked: Asked) -> None:
    line = (
        "estimate gpt2 --task causal-lm --mode train --batch 2 --seq 128 --accumulate 4 --precision fp16-mixed"
        " --optimizer lion --optimizer-impl foreach --checkpointing selective --attention eager --loss chunked"
        " --lora 8 --lora-targets c_attn,c_proj --quantize nf4 --strategy fsdp --gpus 16 --tensor 2 --pipeline 2"
        " --offload optimizer,parameters --device a100-40gb --set loop.dropout=0.1 --set seed=3"
    )
    assert main(line.split()) == 0
    told = to_builtins(asked[0][0])
    assert told["batch"]["micro_batch_size"] == 2
    assert told["batch"]["sequence_length"] == 128
    assert told["batch"]["gradient_accumulation_steps"] == 4
    assert told["precision"] == "fp16-mixed"
    assert told["optimizer"]["name"] == "lion"
    assert told["optimizer"]["implementation"] == "foreach"
    assert told["checkpointing"] == "selective"
    assert told["attention"] == "eager"
    assert told["loss"] == "chunked"
    assert told["adapter"] == {"type": "lora", "rank": 8, "target_modules": ("c_attn", "c_proj"), "dropout": 0.0}
    assert told["quantization"] == "nf4"
    assert told["parallelism"]["strategy"] == "fsdp"
    assert [told["parallelism"][degree] for degree in ("data", "tensor", "pipeline")] == [4, 2, 2]
    assert told["offload"] == ("optimizer", "parameters")
    assert told["device"] == "a100-40gb"
    assert told["loop"]["dropout"] == 0.1
    assert told["seed"] == 3


def test_flags_beat_the_file_and_set_beats_flags(asked: Asked, tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("model: gpt2\nbatch: {micro_batch_size: 2, sequence_length: 64}\nprecision: fp32\n")
    assert main(["estimate", "--scenario", str(path), "--batch", "3", "--set", "batch.micro_batch_size=5"]) == 0
    scenario = asked[0][0]
    assert scenario.model == "gpt2"
    assert scenario.batch.micro_batch_size == 5
    assert scenario.batch.sequence_length == 64
    assert scenario.precision == "fp32"
    assert main(["estimate", "opt-125m", "--scenario", str(path)]) == 0
    assert asked[1][0].model == "opt-125m"


def test_the_engine_is_asked_as_the_flags_say(asked: Asked) -> None:
    assert main(["estimate", "gpt2", "--engine", "analytic", "--explain", "--online", "--set", "seed=1 2"]) == 2
    assert main(["estimate", "gpt2", "--engine", "analytic", "--explain", "--online"]) == 0
    assert asked[0][1] == {
        "progress": report_progress,
        "engine": "analytic",
        "explain": True,
        "online": True,
        "alternatives": True,
        "command": "memprof estimate gpt2 --engine analytic --explain --online",
    }


@pytest.mark.usefixtures("asked")
def test_json_holds_the_contract_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "gpt2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert list(json.loads(out)) == list(Result.__struct_fields__)
    assert err == ""


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".json", "{\n"), (".md", "**195.01 of"), (".txt", "195.01 of 79.19 GiB (246 %): does not fit")],
)
def test_the_suffix_of_a_file_chooses_its_format(
    tmp_path: Path, suffix: str, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"answer{suffix}"
    assert main(["estimate", "gpt2", "-o", str(path)]) == 0
    assert path.read_text(encoding="utf-8").startswith(start)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert capsys.readouterr() == ("", f"wrote {path}\n")


def test_a_file_is_overwritten_only_with_force(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "answer.json"
    path.write_text("mine")
    assert main(["estimate", "gpt2", "-o", str(path)]) == 2
    assert path.read_text() == "mine"
    assert "exists; choose another name, or add --force" in capsys.readouterr().err
    assert asked == []
    assert main(["estimate", "gpt2", "-o", str(path), "--force"]) == 0
    assert json.loads(path.read_text())["engine"] == "analytic"


def test_strict_makes_what_does_not_fit_a_finding(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["estimate", "gpt2"]) == 0
    assert main(["estimate", "gpt2", "--strict"]) == 1
    fits = make_result(verdict=Verdict(status="fits", headroom_bytes=1))
    monkeypatch.setattr(api, "estimate", lambda scenario, **options: fits)
    assert main(["estimate", "gpt2", "--strict"]) == 0


@pytest.mark.usefixtures("asked")
def test_help_shows_every_flag(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    run = memprof("estimate", "--help")
    assert run.returncode == 0
    for flag in ("--scenario", "--gpus", "--set", "--lora-targets", "--explain", "--strict", "-o"):
        assert flag in run.stdout


def test_a_cold_process_answers_without_heavy_imports() -> None:
    heavy = ("torch", "transformers", "numpy", "pandas", "yaml", "rich", "rich_click", "difflib", "importlib.metadata")
    code = (
        "import sys; from memprof.__main__ import main; code = main(sys.argv[1:]);"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "estimate", "llama-13b", "--json"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["scenario"]["model"] == "llama-13b"
    assert run.stderr == "[]\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "memprof", "estimate", "llama-13b"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def memprof(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "memprof", *args], capture_output=True, text=True, check=False)

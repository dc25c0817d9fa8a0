"""``memprof estimate --from``: training configs on the command line, sound ones and hostile ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from memprof.__main__ import main
from tests.support.speed import peak_rss_bytes

FOLDER = "tests/integration/configs/"
TRAIN, ZERO, FSDP = (
    FOLDER + name for name in ("training_arguments.yaml", "deepspeed_zero3_auto.json", "accelerate_fsdp2.yaml")
)


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main(["estimate", *args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["estimate", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("files", [(TRAIN, ZERO), (ZERO, TRAIN)])
def test_files_that_belong_together_make_one_scenario_in_any_order(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    result = answer(capsys, "--from", files[0], "--from", files[1], "--gpus", "8")
    scenario = result["scenario"]
    assert scenario["model"] == "Qwen/Qwen2.5-7B"
    assert scenario["batch"]["micro_batch_size"] == 2
    assert scenario["precision"] == "bf16-mixed"
    assert scenario["parallelism"]["strategy"] == "zero3"
    assert scenario["parallelism"]["data"] == 8


def test_what_was_ignored_or_assumed_is_among_the_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    warnings = answer(capsys, "--from", TRAIN)["warnings"]
    assert (
        "assumed optimizer.name adamw, optimizer.implementation fused (transformers 5.23: training_args.py)" in warnings
    )
    assert any(warning.startswith(f"{TRAIN}: ignored output_dir, ") for warning in warnings)
    assert main(["estimate", "--from", TRAIN]) == 0
    assert "ignored output_dir" in " ".join(capsys.readouterr().out.split())


def test_flags_beat_the_scenario_file_and_that_beats_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text("batch: {micro_batch_size: 3, sequence_length: 512}\noptimizer: {name: sgd}\n")
    line = ["gpt2", "--from", TRAIN, "--scenario", str(scenario), "--batch", "5", "--set", "loop.clip_grad_norm=null"]
    result = answer(capsys, *line)
    batch = result["scenario"]["batch"]
    assert result["scenario"]["model"] == "gpt2"
    assert (batch["micro_batch_size"], batch["sequence_length"]) == (5, 512)
    assert batch["gradient_accumulation_steps"] == 8
    assert result["scenario"]["optimizer"]["name"] == "sgd"
    assert result["scenario"]["loop"]["clip_grad_norm"] is None
    assert not any("optimizer.name" in warning for warning in result["warnings"])


def test_a_flag_lifts_the_refusal_of_what_it_replaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "train.yaml"
    config.write_text("model_name_or_path: gpt2\noutput_dir: out\noptim: lomo\n")
    message = refused(capsys, "--from", str(config))
    assert f"{config}:3: optim lomo: the estimate does not know this optimizer; give --optimizer to" in message
    assert answer(capsys, "--from", str(config), "--optimizer", "adamw")["verdict"]


def test_the_number_of_gpus_on_the_command_line_beats_the_launchers(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "gpt2", "--from", FSDP, "--gpus", "4")["scenario"]["parallelism"]["data"] == 4


def test_the_kind_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "odd.yaml"
    config.write_text("gradient_clipping: 1.0\n")
    message = refused(capsys, "gpt2", "--from", str(config))
    assert (
        f"no key of {config} tells which library it is for; write kind:{config}; the kinds are accelerate, " in message
    )
    assert "did you mean deepspeed?" in refused(capsys, "gpt2", "--from", f"deepsped:{config}")
    result = answer(capsys, "gpt2", "--from", f"training-arguments:{config}")
    assert f"{config}: ignored gradient_clipping" in result["warnings"]


def test_a_scenario_of_memprofs_own_is_sent_to_its_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model: gpt2\nprecision: bf16\n")
    assert "is a scenario of memprof's own; give it with --scenario" in refused(capsys, "--from", str(config))


BOMB = "a: &a [x, x]\n" + "".join(f"{n}: [*a, *a, *a]\n" for n in range(12_000))
HOSTILE = {
    "bomb.yaml": (BOMB, "more than 50,000"),
    "anchors.yaml": ("output_dir: &a [" + "[" * 40 + "]" * 40 + "]\n", "nested too deep"),
    "twice.yaml": ("output_dir: a\noutput_dir: b\n", "line 2: output_dir twice is not allowed"),
    "tabs.yaml": ("output_dir:\n\tx: 1\n", "line 2: "),
    "tag.yaml": ("output_dir: !!python/object/apply:os.system [ls]\n", "line 1: a tag"),
    "big.yaml": ("output_dir: a\n" * (4 << 20), "is larger than 256 KiB"),
    "latin.yaml": (b"output_dir: \xff\n", "is not UTF-8 text"),
    "twice.json": ('{"train_batch_size": 1, "train_batch_size": 2}', "train_batch_size twice is not allowed"),
    "deep.json": ('{"a":' * 50_000, "line 1: "),
    "dots.toml": (".".join(["a"] * 60_000) + " = 1", "nested too deep"),
    "type.yaml": ("output_dir: a\nper_device_train_batch_size: [1]\n", "type.yaml:2: per_device_train_batch_size must"),
    "half.yaml": ("output_dir: a\nper_device_train_batch_size: 1.5\n", "must be a whole number, got 1.5"),
    "huge.yaml": ("output_dir: a\nper_device_train_batch_size: 1.0e+400\n", "must be a whole number, got inf"),
    "nan.json": ('{"train_batch_size": NaN}', "must be a whole number, got nan"),
    "word.yaml": ("output_dir: a\nbf16: maybe\n", "word.yaml:2: bf16 must be true or false, got 'maybe'"),
    "list.yaml": ("distributed_type: FSDP\nfsdp_config: [1]\n", "list.yaml:2: fsdp_config must be a mapping"),
    "mps.yaml": ("distributed_type: XLA\n", "mps.yaml:1: distributed_type XLA is not modelled"),
    "gone.yaml": ("output_dir: a\ndeepspeed: gone.json\n", "gone.yaml:2: deepspeed gone.json is not there"),
    "zero.json": ('{"zero_optimization": {"stage": 7}}', "zero.json:1: zero_optimization.stage must be 0, 1, 2 or 3"),
    "batch.json": (
        '{"zero_optimization": {"stage": 1}, "train_batch_size": 7, "train_micro_batch_size_per_gpu": 2}',
        "is not micro-batch x accumulation x GPUs",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_broken_file_is_one_line_and_a_two_soon(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = HOSTILE[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.monotonic()
    assert message in refused(capsys, "gpt2", "--from", str(tmp_path / name))
    assert time.monotonic() - start < 3


def test_loops_folders_and_pipes_are_one_line_and_a_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("loop.yaml", "pipe.yaml", "", "missing.yaml"):
        assert "cannot be read" in refused(capsys, "gpt2", "--from", str(tmp_path / name))


@pytest.mark.skipif(sys.platform != "linux", reason="a process learns its peak memory from /proc")
@pytest.mark.parametrize("content", [b"x" * (50 << 20), BOMB.encode(), b"a: [" * 60_000])
def test_a_hostile_file_takes_little_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hostile.yaml").write_bytes(content)
    call = f"main(['estimate', 'gpt2', '--from', {str(tmp_path / 'hostile.yaml')!r}])"
    quietly = "import io; from memprof.__main__ import main; shown, sys.stderr = sys.stderr, io.StringIO()"
    assert peak_rss_bytes(f"{quietly}; assert {call} == 2; sys.stderr = shown") < 70 * 10**6


def test_importing_needs_the_core_install_alone() -> None:
    script = (
        "import sys; from memprof.__main__ import main;"
        f"assert main(['estimate', '--from', {TRAIN!r}, '--from', {ZERO!r}, '--gpus', '8', '--json']) == 0;"
        "assert not {'torch', 'transformers', 'numpy', 'rich', 'plotly'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

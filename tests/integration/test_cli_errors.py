"""Whatever is wrong with a command line: one line that says what, why, what to do; exit code 2; no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memprof import api
from memprof.__main__ import main

BAD_LINES = [
    ("estimte gpt2", "'estimte' is not a command; did you mean estimate?"),
    ("frobnicate", "'frobnicate' is not a command; the commands are"),
    ("--jsn", "No such option '--jsn'"),
    ("estimate", "no model is named; try memprof estimate llama-13b"),
    ("estimate gpt2 opt-125m", "Got unexpected extra argument (opt-125m); see memprof estimate --help"),
    ("estimate gpt2 --bath 2", "No such option '--bath'; did you mean --batch?"),
    ("estimate gpt2 --batch", "Option '--batch' requires an argument; see memprof"),
    ("estimate gpt2 --batch two", "Invalid value for '--batch': 'two' is not a valid integer"),
    ("estimate gpt2 --precision bf61", "Invalid value for '--precision': 'bf61' is not one of"),
    ("estimate gpt2 --batch -1", "batch.micro_batch_size must be >= 1, got -1"),
    ("estimate gpt2 --lora 0", "adapter.rank must be >= 1, got 0"),
    ("estimate gpt2 --gpus 0", "--gpus must be >= 1, got 0"),
    ("estimate gpt2 --gpus 8", "--gpus 8 says nothing of what they share; add --strategy"),
    ("estimate gpt2 --gpus 6 --tensor 4", "6 GPUs do not divide by replicate x tensor x pipeline x context = 4"),
    ("estimate gpt2 --strategy fsdp", "parallelism.strategy fsdp needs more than one GPU"),
    ("estimate gpt2 --strategy zero3 --gpus 1", "parallelism.strategy zero3 needs more than one GPU"),
    ("estimate gpt2 --quantize nf4", "nf4 weights have no gradients, so they cannot be trained in full"),
    ("estimate gpt2 --offload everything", "offload.0 must be one of optimizer, parameters, got 'everything'"),
    ("estimate gpt2 --set parallelism.dta=2", "parallelism.dta: unknown field; did you mean data?"),
    ("estimate gpt2 --set seed", "'seed' is not an assignment; write --set dotted.key=value"),
    ("estimate gpt2 --scenario missing.yaml", "scenario file missing.yaml cannot be read: No such file or directory"),
    ("estimate gpt2 -o answer.xyz", "the suffix of answer.xyz names no format; end it in .txt, .json, .md, .html"),
    ("estimate gpt2 -o missing/answer.json", "missing/answer.json cannot be written: No such file or directory"),
    ("estimate no-such-model", "no model is called 'no-such-model'"),
    ("estimate gpt2 --device h1000", "h1000"),
    ("models zzzz", "no model's name contains 'zzzz'"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[line for line, _ in BAD_LINES])
def test_a_bad_line_is_one_line_and_a_two(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("memprof: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("json_flag", ["--json", "--format json", "--format=json"])
@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("estimate gpt2 --bath 2", "UsageError"),
        ("estimate gpt2 --set parallelism.dta=2", "ConfigError"),
        ("estimate no-such-model", "ModelError"),
        ("estimate gpt2 --device h1000", "DeviceError"),
    ],
)
def test_under_json_an_error_is_json_on_stdout(
    line: str, kind: str, json_flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*line.split(), *json_flag.split()]) == 2
    out, err = capsys.readouterr()
    assert err == ""
    told = json.loads(out)["error"]
    assert told["type"] == kind
    assert set(told) == {"type", "message", "hint"}
    assert told["message"]


def test_json_and_another_format_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "gpt2", "--json", "--format", "text"]) == 2
    told = json.loads(capsys.readouterr().out)["error"]
    assert told["message"] == "--json and --format text exclude each other"


def test_a_message_stays_one_line_whatever_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "gpt2", "--set", "two\nlines\r=1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--json", "--strict"])
def test_an_argument_that_is_not_text_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "gpt2\udcff", flag]) == 2
    out, err = capsys.readouterr()
    assert "an argument is not UTF-8 text" in out + err


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(scenario: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "estimate", interrupted)
    assert main(["estimate", "gpt2"]) == 130
    assert capsys.readouterr() == ("", "")


def test_the_real_process_says_it_too(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    run = subprocess.run(
        [sys.executable, "-m", "memprof", "estimate", "--scenario", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == f"memprof: error: scenario file {path} is not UTF-8 text; is it the right file?\n"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("memprof ")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(args=st.lists(st.text(max_size=12) | st.sampled_from(["--set", "--gpus", "--batch", "--json", "-o", "gpt2"])))
def test_any_arguments_end_with_an_exit_code(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unanswered(scenario: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "estimate", unanswered)
    assert main(["estimate", *args]) in (2, 130) or "--help" in args

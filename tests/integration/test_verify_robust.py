"""``memprof verify`` when runs end badly, when it is killed itself, and when it is asked for what cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memprof.__main__ import main
from memprof.verify import room
from tests.integration.test_verify_process import all_gone, ids_in
from tests.support.verify_factories import CHILD_FILE

FACTORIES = "tests.support.verify_factories"


def suite(folder: Path, *factories: str, time_limit_s: float = 240) -> list[str]:
    """Writes a suite of a run for each factory; gives the arguments that run it into ``folder/out``."""
    folder.mkdir(exist_ok=True)
    for factory in factories:
        (folder / f"{factory}.yaml").write_text(f"model: {FACTORIES}:{factory}\nprecision: fp32\ndevice: cpu\n")
    runs = "".join(f"    - {{scenario: {factory}.yaml}}\n" for factory in factories)
    (folder / "suites.yaml").write_text(f"bad:\n  time_limit_s: {time_limit_s}\n  runs:\n{runs}")
    return ["verify", "--suite", "bad", "--scenarios", str(folder), "--out", str(folder / "out")]


def records(folder: Path) -> dict[str, dict[str, object]]:
    found = [json.loads(path.read_text()) for path in (folder / "out" / "cpu").glob("*.json")]
    return {record["name"]: record for record in found}


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command says."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    return line


def test_out_of_memory_and_crashes_are_records_and_the_suite_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*suite(tmp_path, "aborting_everywhere", "large"), "--json"]) == 1
    statuses = {name: record["status"] for name, record in records(tmp_path).items()}
    assert statuses == {"aborting_everywhere": "crash", "large": "oom"}
    aborting, large = json.loads(capsys.readouterr().out)["runs"]
    assert aborting["message"] == "ended by SIGABRT"
    assert "ended by SIGABRT" in aborting["refused"]["trace"]
    assert "can't allocate memory" in large["message"]


def test_a_run_that_hangs_is_ended_and_recorded(tmp_path: Path) -> None:
    assert main(suite(tmp_path, "hanging", time_limit_s=0.5)) == 1
    assert records(tmp_path)["hanging"]["status"] == "timeout"


def test_a_killed_suite_goes_on_where_it_stopped_and_leaves_no_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, ids = suite(tmp_path, "fine", "hanging"), tmp_path / "ids"
    command = [sys.executable, "-m", "memprof", *arguments]
    killed = subprocess.Popen(command, env=os.environ | {CHILD_FILE: str(ids)}, stderr=subprocess.DEVNULL)
    processes = ids_in(ids, patience_s=240)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert all_gone(processes)
    assert list(records(tmp_path)) == ["fine"]

    monkeypatch.delenv(CHILD_FILE, raising=False)  # without which it does not hang
    assert main([*arguments, "--json"]) == 0
    said = capsys.readouterr()
    assert "1 of 2: fine, recorded already" in said.err
    runs = json.loads(said.out)["runs"]
    assert [(run["status"], run["pairs"][0]["engine"]) for run in runs] == [("ok", "trace")] * 2
    assert all(abs(run["pairs"][0]["error"]) < 0.01 for run in runs)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cpu"}
    assert len(list((tmp_path / "out" / "cpu").iterdir())) == 2


def test_a_card_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no CUDA device is here" in refusal(["verify", "--suite", "h100"], capsys)


def test_too_little_host_memory_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "available_host_bytes", lambda: 8 << 30)
    scenario = tmp_path / "large.yaml"
    scenario.write_text("model: llama-13b\nprecision: fp32\ndevice: cpu\nbatch: {sequence_length: 16}\n")
    line = refusal(["verify", str(scenario), "--out", str(tmp_path / "out")], capsys)
    assert "large needs about" in line
    assert "8.00 GiB is available" in line
    assert not (tmp_path / "out").exists()


def test_what_the_host_can_give_is_known_on_linux() -> None:
    available_bytes = room.available_host_bytes()
    assert available_bytes is not None
    assert available_bytes > 0


def test_a_missing_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'memprof-gpu[torch]'" in refusal(["verify"], capsys)


def test_a_folder_or_file_that_cannot_be_written_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = suite(tmp_path, "fine")
    (tmp_path / "file").write_text("")
    (tmp_path / "there.txt").write_text("")
    below_a_file = [*arguments[:-1], str(tmp_path / "file" / "out")]
    assert "cannot be written: Not a directory" in refusal(below_a_file, capsys)
    assert "cannot be written: No such file" in refusal([*arguments, "-o", str(tmp_path / "none" / "a.txt")], capsys)
    assert "is not written as markdown" in refusal([*arguments, "-o", str(tmp_path / "a.md")], capsys)
    assert "there.txt exists" in refusal([*arguments, "-o", str(tmp_path / "there.txt")], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [('{"schema_version": 1, "na', "is no record of a run"), ('{"schema_version": 99}', "schema_version 99")],
)
def test_a_record_that_cannot_be_read_is_said_and_left_as_it_is(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = suite(tmp_path, "fine")
    record = tmp_path / "out" / "cpu" / "fine.json"
    record.parent.mkdir(parents=True)
    record.write_text(text)
    (tmp_path / "out" / "unfinished-bad.jsonl").write_text('{"name":"fine","record":"cpu/fine.json"}\n')
    assert why in refusal(arguments, capsys)
    assert record.read_text() == text
    assert len(list(record.parent.iterdir())) == 1


def test_a_journal_that_is_none_is_said_and_begun_anew_where_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = suite(tmp_path, "fine")
    journal = tmp_path / "out" / "unfinished-bad.jsonl"
    journal.parent.mkdir()
    journal.write_text("not JSON\n")
    assert "begin anew with --again" in refusal(arguments, capsys)
    journal.write_text('{"name":"fine","rec')  # a line that a kill cut off is as good as none
    assert "there is no suite" in refusal([*arguments, "--suite", "good"], capsys)

"""``memprof snapshot`` as it is typed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from memprof.__main__ import main
from memprof.views.torch_snapshot import render
from tests.support.tapes import FOLDER, NAMES, tape

SMALL = "gpu_attention_8x4096x16_fwd_bwd"
TAPE = str(FOLDER / f"{SMALL}.tape.json.gz")
OOM = str(FOLDER / "a100_gnn_oom_expandable.tape.json.gz")


def test_the_first_line_is_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshot", TAPE]) == 0
    out = capsys.readouterr().out
    assert out.startswith("cuda:0: peak 3.03 GiB allocated, 3.52 GiB reserved: temporaries ")
    assert "Fragmentation at the peak" in out
    assert "(the same)" in out


def test_an_out_of_memory_run_says_why_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshot", OOM, "--device", "a100-80gb"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("cuda:0: out of memory, 4.94 GiB asked for with 78.29 GiB allocated")
    assert "still fails, when replayed with: max_split_size_mb:64, max_split_size_mb:256" in out
    assert "GiB more memory, or as much less held" in out


@pytest.mark.parametrize("name", NAMES)
def test_json_has_recorded_and_simulated_by_device(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshot", str(FOLDER / f"{name}.tape.json.gz"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    keys = {"peak_reserved_bytes", "peak_allocated_bytes", "end_reserved_bytes", "num_segment_allocs"}
    assert set(answer["recorded"]["0"]) == set(answer["simulated"]["0"]) == keys
    recorded = tape(name).recorded
    assert recorded is not None
    assert answer["simulated"]["0"]["peak_reserved_bytes"] == recorded.peak_reserved_bytes
    assert answer["recorded"]["0"]["end_reserved_bytes"] == recorded.end_reserved_bytes


def test_diff_says_what_grew(capsys: pytest.CaptureFixture[str]) -> None:
    later = str(FOLDER / "gpu_lm4x512_ctx200_train_fp32.tape.json.gz")
    earlier = str(FOLDER / "gpu_lm4x512_ctx100_train_fp32.tape.json.gz")
    assert main(["snapshot", earlier, "--diff", later, "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("+")
    assert "exp" in out
    assert main(["snapshot", earlier, "--diff", earlier, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["growth"] == []


@pytest.mark.parametrize("suffix", [".pickle", ".json", ".perfetto-trace", ".txt"])
def test_the_suffix_chooses_the_form_and_nothing_is_overwritten(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"out{suffix}"
    assert main(["snapshot", TAPE, "-o", str(out)]) == 0
    written = out.read_bytes()
    assert written
    assert capsys.readouterr().out == ""
    assert main(["snapshot", TAPE, "-o", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["snapshot", TAPE, "-o", str(out), "--force"]) == 0
    assert out.read_bytes() == written


def test_json_with_a_file_writes_the_answer(tmp_path: Path) -> None:
    assert main(["snapshot", TAPE, "--json", "-o", str(tmp_path / "answer.json")]) == 0
    assert json.loads((tmp_path / "answer.json").read_text())["kind"] == "tape"


def test_an_exported_pickle_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "snapshot.pickle").write_bytes(render(tape(SMALL)))
    assert main(["snapshot", str(tmp_path / "snapshot.pickle"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["kind"] == "pickle"
    assert answer["recorded"]["0"]["peak_reserved_bytes"] == 3_781_165_056


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch memprof_was_here",)


BAD = {
    "missing": (None, "cannot be read"),
    "empty": (b"", "is truncated, or is not a pickle"),
    "text": (b"hello there", "pickle"),
    "truncated": (render(tape(SMALL))[:-100], "is truncated"),
    "truncated tape": (Path(TAPE).read_bytes()[:-100], "ends too early"),
    "hostile": (pickle.dumps({"segments": [Hostile()]}), "system"),
    "wrong": (pickle.dumps({"segments": 3}), "is not a PyTorch memory snapshot"),
    "nothing recorded": (pickle.dumps({"segments": [], "device_traces": [[]]}), "holds no segments and no events"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_and_exit_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data, said = BAD[name]
    if data is not None:
        Path("bad.pickle").write_bytes(data)
    assert main(["snapshot", "bad.pickle"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert not Path("memprof_was_here").exists()
    assert main(["snapshot", "bad.pickle", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "MeasurementError"
    assert not Path("memprof_was_here").exists()


def test_an_unknown_suffix_and_an_unknown_device_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["snapshot", TAPE, "-o", str(tmp_path / "out.xyz")]) == 2
    assert "names no format" in capsys.readouterr().err
    assert main(["snapshot", TAPE, "--device", "a100-81gb"]) == 2
    assert "is not a device" in capsys.readouterr().err

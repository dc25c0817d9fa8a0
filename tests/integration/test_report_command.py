"""``memprof report``, ``memprof diff`` and ``-o report.html`` as users run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memprof.__main__ import main
from tests.support.reports import TAPES

SMALL = ["gpt2", "--device", "t4-16gb", "--precision", "fp32"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two saved estimates and a saved snapshot, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert main(["estimate", *SMALL, "-o", "a.json"]) == 0
    assert main(["estimate", *SMALL, "--batch", "2", "-o", "b.json"]) == 0
    tape = str(TAPES / "h100_linear_grad.tape.json.gz")
    assert main(["snapshot", tape, "--json", "-o", "s.json"]) == 0
    return tmp_path


def output(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(args) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_estimate_and_snapshot_write_html(folder: Path) -> None:
    assert main(["estimate", *SMALL, "-o", "a.html"]) == 0
    assert main(["snapshot", str(TAPES / "h100_linear_grad.tape.json.gz"), "-o", "s.html"]) == 0
    for name, words in (("a.html", "memprof estimate gpt2"), ("s.html", "memprof snapshot")):
        html = (folder / name).read_text(encoding="utf-8")
        assert html.startswith("<!doctype html>")
        assert words in html


def test_a_saved_result_gives_the_report_that_the_estimate_gave(folder: Path) -> None:
    assert main(["report", "a.json", "-o", "1.html"]) == 0
    assert main(["report", "a.json", "-o", "2.html"]) == 0
    assert (folder / "1.html").read_bytes() == (folder / "2.html").read_bytes()
    assert main(["estimate", *SMALL, "-o", "a.json", "--force"]) == 0
    assert main(["estimate", *SMALL, "--format", "html", "-o", "3.html"]) == 0
    shorter = [(folder / name).read_text(encoding="utf-8").split("How it was made")[0] for name in ("1.html", "3.html")]
    assert shorter[0] == shorter[1]


def test_several_results_of_several_kinds_make_one_report(folder: Path) -> None:
    assert main(["report", "a.json", "s.json", "b.json", "-o", "all.html"]) == 0
    assert (folder / "all.html").read_text(encoding="utf-8").count("<article") == 3


def test_report_draws_text_and_markdown_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "report", "a.json") == output(capsys, "estimate", *SMALL)
    assert output(capsys, "report", "a.json", "--format", "markdown").startswith("**")
    assert "cuda:0: peak" in output(capsys, "report", "a.json", "s.json")


def test_diff_says_what_a_larger_batch_costs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "diff", "a.json", "b.json")
    assert text.splitlines()[0].startswith("reserved ")
    assert " more: " in text.splitlines()[0]
    assert "batch.micro_batch_size  1       2" in text
    data = json.loads(output(capsys, "diff", "a.json", "b.json", "--json"))
    before, after = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("a.json", "b.json"))
    peaks = [result["peak"]["requested_bytes"] for result in (before, after)]
    assert data["numbers"][0] == {"name": "requested", "before_bytes": peaks[0], "after_bytes": peaks[1]}
    assert main(["diff", "a.json", "b.json", "-o", "d.html"]) == 0
    assert main(["diff", "a.json", "s.json", "-o", "d.md"]) == 0
    assert "estimate" in (folder / "d.md").read_text(encoding="utf-8")
    assert main(["diff", "a.json", "b.json", "-o", "d.json"]) == 0
    assert main(["report", "d.json", "-o", "d2.html"]) == 0


def test_no_file_is_overwritten_without_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.html").write_text("mine", encoding="utf-8")
    for args in (
        ["report", "a.json"],
        ["diff", "a.json", "b.json"],
        ["estimate", *SMALL],
        ["snapshot", str(TAPES / "h100_linear_grad.tape.json.gz")],
    ):
        assert "mine.html exists; choose another name, or add --force" in refusal(capsys, *args, "-o", "mine.html")
        assert (folder / "mine.html").read_text(encoding="utf-8") == "mine"
    assert main(["report", "a.json", "-o", "mine.html", "--force"]) == 0
    assert len((folder / "mine.html").read_bytes()) > 10_000


def test_a_newer_schema_is_refused_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.json", "s.json"):
        data = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / "new.json").write_text(json.dumps(data | {"schema_version": 99}), encoding="utf-8")
        message = "new.json has schema_version 99, this memprof reads up to 1; update memprof"
        assert message in refusal(capsys, "report", "new.json", "-o", "x.html")
        assert message in refusal(capsys, "diff", "a.json", "new.json")
        assert not (folder / "x.html").exists()


@pytest.mark.parametrize("view", ["x.html", "x.txt", "x.md"])
def test_a_file_that_no_memprof_wrote_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], view: str
) -> None:
    data = json.loads((folder / "a.json").read_text(encoding="utf-8"))
    (folder / "odd.json").write_text(json.dumps(data | {"scenario": {"model": "x"}}), encoding="utf-8")
    assert "a result cannot be drawn: KeyError at 'batch'" in refusal(capsys, "report", "odd.json", "-o", view)
    assert not (folder / view).exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["report"], "Missing argument"),
        (["report", "none.json"], "none.json cannot be read: No such file or directory"),
        (["report", "a.json", "-o", "x.pdf"], "the suffix of x.pdf names no format"),
        (["report", "a.json", "-o", "nowhere/x.html"], "nowhere/x.html cannot be written"),
        (["diff", "a.json"], "Missing argument"),
        (["diff", "a.json", "."], ". is not a file"),
        (["report", "s.json", "--format", "markdown"], "there is no markdown view of a SnapshotReport"),
    ],
)
def test_bad_input_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    assert message in refusal(capsys, *args)

"""`memprof check` from the command line: where it looks, what it prints where, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memprof import api
from memprof.__main__ import main
from memprof.model.scenario import Scenario

PASSES = "  - {name: small, scenario: {model: gpt2, batch: {sequence_length: 64}}, limit: 8 GiB}\n"
FAILS = "  - {name: large, scenario: {model: gpt2, batch: {sequence_length: 64}}, limit: 1 GiB}\n"
UNKNOWN = "  - {name: odd, scenario: {model: bert-base-uncased}, limit: 8 GiB}\n"
HEAD = "defaults: {metric: reserved}\nchecks:\n"

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return tmp_path


def configure(folder: Path, *checks: str, head: str = HEAD) -> None:
    (folder / "memprof.yaml").write_text(head + "".join(checks), encoding="utf-8")


@pytest.mark.parametrize(
    ("checks", "code", "count"),
    [
        ((PASSES,), 0, "1 check: 1 passed"),
        ((PASSES, FAILS), 1, "2 checks: 1 passed, 1 failed"),
        ((PASSES, UNKNOWN), 1, "2 checks: 1 passed, 1 unknown"),
        ((FAILS.replace("}\n", ", level: warn}\n"),), 0, "1 check: 1 failed (1 at level warn)"),
        ((UNKNOWN.replace("}\n", ", level: info}\n"),), 0, "1 check: 1 unknown (1 at level info)"),
    ],
)
def test_the_exit_code_and_the_count(
    folder: Path, checks: tuple[str, ...], code: int, count: str, capsys: Printed
) -> None:
    configure(folder, *checks)
    assert main(["check"]) == code
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == count
    assert err == ""
    assert main(["check", "--exit-zero"]) == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (HEAD + PASSES.replace("gpt2", "gtp2"), "memprof.yaml:3: check 'small': no model is called 'gtp2'"),
        (HEAD + PASSES.replace("}\n", ", device: h1000}\n"), "memprof.yaml:3: check 'small': "),
        (
            HEAD + PASSES.replace("sequence_length", "sequence"),
            "memprof.yaml:3: check 'small': batch.sequence: unknown",
        ),
        (
            HEAD + PASSES.replace("64}", "64}, precision: fp8"),
            "memprof.yaml:3: check 'small': precision must be one of",
        ),
        (HEAD + PASSES.replace("{model: gpt2, batch: {sequence_length: 64}}", "missing.yaml"), "missing.yaml"),
        (HEAD + PASSES.replace("limit", "limits"), "memprof.yaml:3: checks.0.limits: unknown field"),
        ("nothing", "it holds no fields"),
    ],
)
def test_what_cannot_be_checked_is_a_two_that_nothing_hides(
    folder: Path, config: str, message: str, capsys: Printed
) -> None:
    (folder / "memprof.yaml").write_text(config, encoding="utf-8")
    for flags in ([], ["--exit-zero"], ["--update-baseline"]):
        assert main(["check", *flags]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("memprof: error: ")
        assert message in err
        assert err.count("\n") == 1
    assert not (folder / "memprof-baseline.json").exists()
    assert main(["check", "--output", "json"]) == 2
    assert message in json.loads(capsys.readouterr().out)["error"]["message"]


def test_no_config_is_a_two(folder: Path, capsys: Printed) -> None:
    assert main(["check"]) == 2
    assert "no checks are configured" in capsys.readouterr().err


def test_the_config_is_found_from_below_and_paths_are_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    (folder / "scenarios").mkdir()
    (folder / "scenarios" / "s.yaml").write_text("model: gpt2\nbatch:\n  sequence_length: 64\n", encoding="utf-8")
    configure(folder, "  - {name: filed, scenario: scenarios/s.yaml, limit: 1 GiB}\n")
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert main(["check", "--output", "concise"]) == 1
    assert capsys.readouterr().out.startswith("memprof.yaml:3: error: filed: ")


def test_a_pyproject_is_blamed_by_its_line(folder: Path, capsys: Printed) -> None:
    text = (
        '[project]\nname = "x"\n\n[tool.memprof.defaults]\nmetric = "reserved"\nlimit = "8 GiB"\n\n'
        '[[tool.memprof.checks]]\nname = "small"\nscenario = {model = "gpt2", batch.sequence_length = 64}\n\n'
        '[[tool.memprof.checks]]\nname = "large"\nlimit = "1 GiB"\n'
        'scenario = {model = "gpt2", batch.sequence_length = 64}\n'
    )
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    assert main(["check", "--output", "concise"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("pyproject.toml:14: error: large: ")
    assert last == "2 checks: 1 passed, 1 failed"


def test_several_outputs_at_once(folder: Path, capsys: Printed) -> None:
    configure(folder, PASSES, FAILS)
    assert main(["check", "--output", "concise", "--output", "junit:memprof.xml", "--output=json:memprof.json"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "2 checks: 1 passed, 1 failed"
    assert err.splitlines() == ["wrote memprof.xml", "wrote memprof.json"]
    assert json.loads((folder / "memprof.json").read_text(encoding="utf-8"))["summary"] == out.splitlines()[-1]
    assert (folder / "memprof.xml").read_text(encoding="utf-8").startswith("<?xml")


def test_a_report_does_not_overwrite_a_file_unless_asked(folder: Path, capsys: Printed) -> None:
    configure(folder, PASSES)
    (folder / "report.json").write_text("mine", encoding="utf-8")
    assert main(["check", "--output", "json:report.json"]) == 2
    assert "report.json exists" in capsys.readouterr().err
    assert (folder / "report.json").read_text(encoding="utf-8") == "mine"
    assert main(["check", "--output", "json:report.json", "--force"]) == 0
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["checks"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "jnuit"], "'jnuit' is not a format; did you mean junit?"),
        (
            ["--output", "x"],
            "'x' is not a format; the formats are text, concise, json, markdown, html, github, junit, sarif",
        ),
        (["--json", "--output", "text"], "text and json would mix on stdout"),
        (["--output", "junit:a", "--output", "sarif:a"], "two outputs go to one file"),
        (["--output", "junit:missing/a.xml"], "missing/a.xml cannot be written"),
    ],
)
def test_outputs_that_cannot_be_are_refused(folder: Path, flags: list[str], message: str, capsys: Printed) -> None:
    configure(folder, PASSES)
    assert main(["check", *flags]) == 2
    out, err = capsys.readouterr()
    assert message in out + err


def test_updating_the_baseline_prints_the_difference_before_it_writes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    configure(folder, PASSES, head="defaults: {metric: reserved, max_increase: 0 %}\nchecks:\n")
    assert main(["check"]) == 1
    assert "no baseline has this check" in capsys.readouterr().out
    assert main(["check", "--update-baseline"]) == 0
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("+ small: ")
    assert err[-1] == "wrote memprof-baseline.json"
    first = (folder / "memprof-baseline.json").read_bytes()

    configure(folder, PASSES.replace("64", "512"), head="defaults: {metric: reserved, max_increase: 0 %}\nchecks:\n")
    assert main(["check"]) == 1
    assert "changed: batch.sequence_length 64 -> 512" in capsys.readouterr().out
    assert (folder / "memprof-baseline.json").read_bytes() == first
    (folder / "memprof-baseline.json").chmod(0o444)
    assert main(["check", "--update-baseline"]) == 0
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("~ small: ")
    assert any(line.startswith("    activations +") for line in err)
    assert main(["check"]) == 0
    assert capsys.readouterr().out.startswith("1 check: 1 passed\n")
    assert main(["check", "--update-baseline"]) == 0
    assert capsys.readouterr().err == "the baseline does not change\n"


def test_another_baseline_can_be_named(folder: Path, capsys: Printed) -> None:
    configure(folder, PASSES.replace("}\n", ", max_increase: 1 %}\n"))
    assert main(["check", "--update-baseline", "--baseline", "head.json"]) == 0
    assert main(["check", "--baseline", "head.json"]) == 0
    assert main(["check"]) == 1
    assert not (folder / "memprof-baseline.json").exists()


def test_the_same_scenario_is_estimated_once(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    asked: list[Scenario] = []
    estimate = api.estimate

    def counted(scenario: Scenario, **options: Any) -> Any:
        asked.append(scenario)
        return estimate(scenario, **options)

    monkeypatch.setattr(api, "estimate", counted)
    configure(folder, PASSES, PASSES.replace("small", "again").replace("8 GiB", "9 GiB"))
    assert main(["check"]) == 0
    assert len(asked) == 1


def test_many_scenarios_over_several_processes_are_answered_alike(folder: Path, capsys: Printed) -> None:
    checks = [PASSES.replace("small", f"c{length}").replace("64", str(length)) for length in range(16, 32)]
    configure(folder, *checks, UNKNOWN)
    command = [sys.executable, "-m", "memprof", "check", "--json"]
    apart = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (apart.returncode, apart.stderr) == (1, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memprof.check.estimates._num_cores", lambda: 1)
        assert main(["check", "--json"]) == 1
    assert capsys.readouterr().out == apart.stdout


def test_a_device_check_says_why_it_is_unknown_and_a_measured_context_makes_it_known(
    folder: Path, capsys: Printed
) -> None:
    configure(folder, PASSES, head="checks:\n")
    assert main(["check", "--output", "concise"]) == 1
    first = capsys.readouterr().out.splitlines()[0]
    assert "at least " in first
    assert "the CUDA context on top of " in first
    assert "set metric: reserved, or context:" in first
    configure(folder, PASSES, head="defaults: {context: 512 MiB}\nchecks:\n")
    assert main(["check"]) == 0


def test_the_step_summary_is_appended_to(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    summary = folder / "summary.md"
    summary.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    configure(folder, PASSES)
    assert main(["check", "--output", "text"]) == 0
    assert summary.read_text(encoding="utf-8") == "before\n"
    assert main(["check", "--output", "github"]) == 0
    assert summary.read_text(encoding="utf-8").startswith("before\n**memprof: 1 check: 1 passed**\n")

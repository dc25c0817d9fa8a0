"""The action's script on real repositories, with a ``gh`` that writes down what it is asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from memprof.model.check_report import CheckReport, Limit, Outcome, Place
from memprof.views import check_json, check_markdown

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "ci" / "preflight.sh"
MARKER = "<!-- memprof: preflight -->"
CONFIG = """\
checks:
  - {name: sft, scenario: {model: gpt2, batch: {sequence_length: 512}}, metric: reserved, limit: 3 GiB}
  - {name: eval, scenario: {model: gpt2, mode: inference}, metric: reserved, limit: 9 GiB}
"""
GH = """\
#!/usr/bin/env python3
import json, os, sys
from pathlib import Path
given = sys.argv[1:]
body = next((Path(g.removeprefix("body=@")).read_text() for g in given if g.startswith("body=@")), None)
with open(os.environ["GH_CALLS"], "a") as calls:
    calls.write(json.dumps({"arguments": given, "body": body, "token": os.environ.get("GH_TOKEN")}) + "\\n")
if os.environ.get("GH_REFUSES", "never") in given:
    sys.exit("HTTP 403: Resource not accessible by integration")
if "--paginate" in given:
    print(os.environ.get("GH_COMMENTS", ""))
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32" or shutil.which("git") is None, reason="needs bash and git")


class Repository:
    """A base and a head, checked out at the head, and the script run there as the action runs it."""

    def __init__(self, folder: Path, base: str | None = CONFIG, head: str | None = CONFIG) -> None:
        self.path, self.calls = folder / "repo", folder / "gh-calls"
        self.path.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.base = self.commit(base)
        self.commit(head)
        tools = folder / "tools"
        tools.mkdir()
        (tools / "gh").write_text(GH)
        (tools / "gh").chmod(0o755)
        memprof = Path(sys.executable).parent
        self.path_variable = os.pathsep.join([str(tools), str(memprof), os.environ["PATH"]])

    def git(self, *arguments: str) -> str:
        names = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        done = subprocess.run(["git", *names, *arguments], cwd=self.path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, config: str | None) -> str:
        file = self.path / "memprof.yaml"
        file.unlink(missing_ok=True) if config is None else file.write_text(config)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=a change")
        return self.git("rev-parse", "HEAD")

    def preflight(self, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {
            "PATH": self.path_variable, "HOME": str(self.path), "BASE": self.base, "PULL_REQUEST": "7",
            "GITHUB_REPOSITORY": "owner/name", "GH_TOKEN": "a-token", "GH_CALLS": str(self.calls), **environment,
        }  # fmt: skip
        return subprocess.run([SCRIPT], cwd=self.path, env=given, capture_output=True, text=True, check=False)

    @property
    def asked(self) -> list[dict[str, Any]]:
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def body(self) -> str:
        return str(self.asked[-1]["body"])


def test_a_growth_over_the_limit_fails_is_annotated_and_becomes_one_comment(tmp_path: Path) -> None:
    repository = Repository(tmp_path, head=CONFIG.replace("512", "1024"))
    done = repository.preflight()
    assert done.returncode == 1, done.stderr
    assert "::error file=memprof.yaml,line=2" in done.stdout
    assert [call["arguments"][:4] for call in repository.asked] == [
        ["api", "--paginate", "repos/owner/name/issues/7/comments?per_page=100", "--jq"],
        ["api", "--silent", "--method", "POST"],
    ]
    assert "repos/owner/name/issues/7/comments" in repository.asked[1]["arguments"]
    assert {call["token"] for call in repository.asked} == {"a-token"}
    lines = repository.body.splitlines()
    assert lines[:2] == [MARKER, "**memprof: 2 checks: 1 passed, 1 failed**"]
    [row] = [line for line in lines if "batch.sequence" in line and line.startswith("| sft")]
    assert "GiB" in row
    assert "512 -> 1024" in row
    assert "<details><summary>Base " + repository.base[:8] in repository.body


def test_only_a_bot_s_comment_with_the_marker_is_edited_and_the_tree_left_as_it_was(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    assert repository.preflight(GH_COMMENTS="901\n902", NAME="nightly").returncode == 0
    search, edit = (call["arguments"] for call in repository.asked)
    assert edit[:5] == ["api", "--silent", "--method", "PATCH", "repos/owner/name/issues/comments/901"]
    assert f"No check takes other memory than on {repository.base[:8]}." in repository.body
    assert repository.git("status", "--porcelain") == ""
    assert len(repository.git("worktree", "list").splitlines()) == 1
    comments = [
        {"id": 1, "user": {"type": "User"}, "body": "<!-- memprof: nightly --> quoted"},
        {"id": 2, "user": {"type": "Bot"}, "body": MARKER},
        {"id": 3, "user": {"type": "Bot"}, "body": repository.body},
    ]
    jq = shutil.which("jq")
    if jq is None:
        pytest.skip("needs jq, whose language gh filters in")
    found = subprocess.run([jq, search[-1]], input=json.dumps(comments), capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["3"]


def test_max_increase_is_held_against_the_base_where_no_baseline_is_committed(tmp_path: Path) -> None:
    allowed = CONFIG.replace("limit: 3 GiB", "max_increase: 1 %")
    repository = Repository(tmp_path, base=allowed, head=allowed.replace("512", "600"))
    done = repository.preflight()
    assert done.returncode == 1
    assert "1 failed" in repository.body
    assert not (repository.path / "memprof-baseline.json").exists()


def test_a_committed_baseline_is_the_one_that_counts(tmp_path: Path) -> None:
    allowed = CONFIG.replace("limit: 3 GiB", "max_increase: 1 %")
    repository = Repository(tmp_path, base=allowed, head=allowed.replace("512", "600"))
    subprocess.run([sys.executable, "-m", "memprof", "check", "--update-baseline"], cwd=repository.path, check=True)
    done = repository.preflight()
    assert done.returncode == 0, done.stdout
    assert "512 -> 600" in repository.body


@pytest.mark.parametrize("refused", ["POST", "--paginate"])
def test_a_comment_that_may_not_be_written_is_a_warning_and_hides_no_failure(tmp_path: Path, refused: str) -> None:
    repository = Repository(tmp_path, head=CONFIG.replace("512", "1024"))
    done = repository.preflight(GH_REFUSES=refused)
    assert done.returncode == 1
    assert "::warning title=memprof::the comment could not be written" in done.stdout


def test_a_base_without_checks_is_said_to_have_none(tmp_path: Path) -> None:
    repository = Repository(tmp_path, base=None)
    assert repository.preflight().returncode == 0
    assert "**memprof: the base has no checks**" in repository.body
    assert "no checks are configured" in repository.body


def test_a_config_that_cannot_be_read_fails_with_two_and_is_told(tmp_path: Path) -> None:
    repository = Repository(tmp_path, head="checks: [{name: <b>x</b>, limt: 3}]\n")
    assert repository.preflight().returncode == 2
    assert "**memprof: the head could not be checked**" in repository.body
    assert "limt" in repository.body
    assert "<b>" not in repository.body


def test_a_base_that_a_shallow_clone_lacks_is_fetched(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    origin = repository.path
    repository.path = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", origin.as_uri(), repository.path], check=True)
    assert repository.preflight().returncode == 0
    assert "No check takes other memory" in repository.body


def test_without_a_pull_request_and_a_base_only_the_checks_are_made(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    done = repository.preflight(BASE="", PULL_REQUEST="")
    assert done.returncode == 0
    assert "2 checks: 2 passed" in done.stdout
    assert not repository.asked


@pytest.mark.parametrize(
    "hostile", [{"BASE": "HEAD; touch ran"}, {"BASE": "--help"}, {"PULL_REQUEST": "7/../8"}, {"NAME": 'x") | halt'}]
)
def test_what_is_not_of_its_kind_is_refused(tmp_path: Path, hostile: dict[str, str]) -> None:
    repository = Repository(tmp_path)
    done = repository.preflight(**hostile)
    assert done.returncode == 2
    assert done.stdout.startswith("::error title=memprof::")
    assert not repository.asked


def test_names_from_a_pull_request_are_never_run_or_opened_as_html(tmp_path: Path) -> None:
    name = "$(touch ran)`touch ran`<img src=x>|::error::x"
    repository = Repository(tmp_path, head=CONFIG.replace("name: sft", f"name: '{name}'").replace("512", "1024"))
    done = repository.preflight(CONFIG="memprof.yaml")
    assert done.returncode == 1
    assert not (repository.path / "ran").exists()
    assert "<img" not in repository.body
    assert not [line for line in done.stdout.splitlines() if line.startswith("::error::")]


@pytest.mark.parametrize(("num_failed", "folds_base"), [(40, True), (90, False), (400, False)])
def test_a_long_report_is_cut_to_what_a_comment_may_hold(tmp_path: Path, num_failed: int, folds_base: bool) -> None:
    outcomes = [
        Outcome(
            name=f"check number {number}", status="failed", level="error", severity="error",
            place=Place(path="memprof.yaml", line=number), device="h100-80gb", metric="reserved", value_bytes=2 << 30,
            limit=Limit(text="1 GiB", num_bytes=1 << 30), components={"weights": 1 << 30, "gradients": 1 << 30},
        )
        for number in range(num_failed)
    ]  # fmt: skip
    counts = {"passed": 0, "warning": 0, "failed": num_failed, "unknown": 0}
    report = CheckReport(memprof_version="1", config="memprof.yaml", baseline=None, counts=counts, checks=outcomes)
    for side in ("head", "base"):
        (tmp_path / f"{side}.md").write_text(check_markdown.render(report), encoding="utf-8")
        (tmp_path / f"{side}.json").write_text(check_json.render(report))
    command = [sys.executable, ROOT / "ci" / "comment.py", tmp_path, "0123456789abcdef"]
    body = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    assert len(body) + len(MARKER) < 65_536
    assert body.startswith(f"**memprof: {num_failed} checks: {num_failed} failed**")
    assert body.count("<details>") == body.count("</details>")
    assert ("Base 01234567" in body) == folds_base == ("left out" not in body)


def test_nothing_from_an_event_stands_in_a_script_of_the_action() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    steps = action["runs"]["steps"]
    assert steps
    assert not [step for step in steps if "${{" in step["run"]]


def test_the_scenarios_that_ship_keep_fitting_their_cards() -> None:
    command = [sys.executable, "-m", "memprof", "check", "--config", ROOT / ".github" / "memprof.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

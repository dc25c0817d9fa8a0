"""The pre-commit hook, run by pre-commit itself over a repository; memprof is the one that is installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIG = "checks: [{name: sft, scenario: {model: gpt2}, metric: reserved, limit: %s}]\n"

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


class Repository:
    """A repository that uses the hook, but for its environment, which pre-commit would download."""

    def __init__(self, path: Path) -> None:
        self.path = path
        [hook] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
        local = {"repos": [{"repo": "local", "hooks": [{**hook, "language": "system"}]}]}
        (path / ".pre-commit-config.yaml").write_text(yaml.safe_dump(local))
        self.git("init", "--quiet")

    def git(self, *arguments: str) -> None:
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", *arguments]
        subprocess.run(command, cwd=self.path, check=True)

    def stage(self, name: str, text: str) -> subprocess.CompletedProcess[str]:
        """What the hook says of a commit with this file."""
        (self.path / name).write_text(text)
        self.git("add", "--all")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PRE_COMMIT_HOME": str(self.path / ".git" / "cache")}
        command = [sys.executable, "-m", "pre_commit", "run", "--color=never"]
        return subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True, check=False)


def test_a_commit_within_the_budget_passes(tmp_path: Path) -> None:
    done = Repository(tmp_path).stage("memprof.yaml", CONFIG % "9 GiB")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GPU memory budgets" in done.stdout
    assert "Passed" in done.stdout


def test_a_commit_over_the_budget_is_stopped_with_the_line_to_blame(tmp_path: Path) -> None:
    done = Repository(tmp_path).stage("memprof.yaml", CONFIG % "1 GiB")
    assert done.returncode == 1
    assert "memprof.yaml:1: error: sft: " in done.stdout


def test_a_commit_that_changes_no_config_is_not_checked(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--no-verify", "--message=a change")
    assert "Skipped" in repository.stage("readme.txt", "x").stdout


def test_pre_commit_accepts_the_manifest() -> None:
    command = [sys.executable, "-m", "pre_commit", "validate-manifest", ROOT / ".pre-commit-hooks.yaml"]
    subprocess.run(command, check=True)

"""What fifty checks cost, cold, with the core install only: CPU time in interpreters that start and do nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.support.core_env import core_python

MODELS = ("llama-3.2-1b", "llama-3.2-3b", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen3-4b")
WAYS = (
    "precision: bf16, optimizer: {name: adamw-8bit}, checkpointing: full",
    "precision: bf16, adapter: {rank: 16}",
)
DEMANDS = (
    "metric: reserved, limit: 90 %",
    "metric: allocated, limit: 70 GiB",
    "metric: device, context: 600 MiB, limit: 75 GiB",
    "metric: reserved, limit: 60 GiB, level: warn",
    "metric: allocated, limit: 50 %, level: info",
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the environment is made of links, as on Linux")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return core_python(tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenarios, each under five demands."""
    checks = [
        f"  - {{name: c{index}, scenario: {{model: {model}, {way}}}, {demand}}}"
        for index, (model, way, demand) in enumerate(product(MODELS, WAYS, DEMANDS))
    ]
    path = tmp_path_factory.mktemp("fifty") / "memprof.yaml"
    path.write_text("\n".join(["checks:", *checks]), encoding="utf-8")
    return path


def cpu_s(python: Path, *arguments: str) -> float:
    """CPU seconds, user and system, of a command and the processes that it starts."""
    with subprocess.Popen([python, "-I", *arguments], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_fifty_checks_pass_where_there_is_no_torch(python: Path, fifty: Path) -> None:
    code = "import importlib.util as u; print([n for n in ('torch', 'numpy', 'transformers') if u.find_spec(n)])"
    probed = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert probed.stdout == "[]\n"
    command = [python, "-I", "-m", "memprof", "check", "--config", str(fifty)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("50 checks: 50 passed\n")


def test_fifty_checks_of_ten_scenarios_cost_at_most_seventy_bare_interpreters(python: Path, fifty: Path) -> None:
    """Which is a second where an interpreter starts in 14 ms."""
    checks = bare = float("inf")
    for _ in range(10):
        bare = min(bare, *(cpu_s(python, "-c", "pass") for _ in range(3)))
        checks = min(checks, cpu_s(python, "-m", "memprof", "check", "--config", str(fifty)))
        if checks <= 70 * bare:
            return
    pytest.fail(f"{checks:.2f} s, {checks / bare:.0f} bare interpreters")

"""Processes for one question: how they end is an answer, and nothing of them stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memprof.verify.process import Ended, started

MODULE = "tests.support.ending"
ASKER = f"""
from memprof.verify.process import started
import sys
with started({MODULE!r}, f"hang {{sys.argv[1]}}".encode()) as process:
    process.ended(600)
"""


def ids_in(path: Path, patience_s: float = 60) -> list[int]:
    until = time.monotonic() + patience_s
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    return [int(number) for number in path.read_text().split()]


def all_gone(ids: list[int]) -> bool:
    """Ended, or waiting only for a parent to take note."""
    until = time.monotonic() + 10
    while any(is_running(number) for number in ids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def asked(how: str, ids: Path, time_limit_s: float = 60) -> Ended:
    with started(MODULE, f"{how} {ids}".encode()) as process:
        ids_in(ids)
        return process.ended(time_limit_s)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("answer", Ended(b"42")),
        ("abort", Ended(None, "crash", "ended by SIGABRT")),
        ("segfault", Ended(None, "crash", "ended by SIGSEGV")),
        ("raise", Ended(None, "crash", "ended with exit code 1 and no answer: ValueError: no such luck")),
    ],
)
def test_however_it_ends_what_it_started_is_gone(how: str, expected: Ended, tmp_path: Path) -> None:
    assert asked(how, tmp_path / "ids") == expected
    assert all_gone(ids_in(tmp_path / "ids"))


def test_a_hung_process_is_ended_with_what_it_started(tmp_path: Path) -> None:
    assert asked("hang", tmp_path / "ids", time_limit_s=0.1) == Ended(None, "timeout", "ended after 0.1 s")
    assert all_gone(ids_in(tmp_path / "ids"))


def test_all_end_with_the_process_that_asked_even_if_that_is_killed(tmp_path: Path) -> None:
    asker = subprocess.Popen([sys.executable, "-c", ASKER, str(tmp_path / "ids")])
    ids = ids_in(tmp_path / "ids")
    assert all(is_running(number) for number in ids)
    asker.send_signal(signal.SIGKILL)
    asker.wait()
    assert all_gone(ids)

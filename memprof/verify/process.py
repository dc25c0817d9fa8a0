"""A process for one question, whose crash or hang is an answer too; none of what it started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from memprof.errors import MeasurementError
from memprof.model.evidence import Status


class Ended(NamedTuple):
    """How it ended: the bytes that it answered with, or the status and why there are none."""

    answer: bytes | None
    status: Status = "ok"
    message: str = ""


class Process:
    """One that runs; made by ``started``."""

    def __init__(self, popen: subprocess.Popen[bytes], out: Path, log: IO[bytes]) -> None:
        self._popen, self._out, self._log = popen, out, log
        self._since = time.monotonic()

    def ended(self, time_limit_s: float) -> Ended:
        """Waits for the answer; the limit counts from the start."""
        left = time_limit_s - (time.monotonic() - self._since)
        try:
            code = self._popen.wait(timeout=max(0.0, left))
        except subprocess.TimeoutExpired:
            return Ended(None, "timeout", f"ended after {time_limit_s:g} s")
        if self._out.exists():
            return Ended(self._out.read_bytes())
        if code < 0:
            return Ended(None, "crash", f"ended by {signal.Signals(-code).name}")
        return Ended(None, "crash", f"ended with exit code {code} and no answer{self._last_words()}")

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return f": {lines[-1].strip()}" if lines else ""


@contextmanager
def started(module: str, request: bytes, variables: dict[str, str] | None = None) -> Iterator[Process]:
    """Starts ``python -m MODULE REQUEST ANSWER``, in a process group that is gone when this is closed.

    Args:
        module: reads one file, writes the other, and holds its ``lifeline``.
        request: what the first file holds.
        variables: of its environment, in the place of this process' own.

    Raises:
        MeasurementError: the system starts no process.
    """
    with tempfile.TemporaryDirectory(prefix="memprof-") as folder, tempfile.TemporaryFile() as log:
        asked, out = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_bytes(request)
        try:
            popen = subprocess.Popen(
                [sys.executable, "-m", module, str(asked), str(out)],
                env=variables,
                stdin=subprocess.PIPE,  # the lifeline: nothing is ever written
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            raise MeasurementError(f"cannot start a process for the run: {error.strerror}") from None
        try:
            yield Process(popen, out, log)
        finally:
            with suppress(ProcessLookupError):  # nobody of the group is left
                os.killpg(popen.pid, signal.SIGKILL)
            assert popen.stdin is not None
            popen.stdin.close()
            popen.wait()


def answered(out: Path, answer: bytes) -> None:
    """Writes an answer: whole or not at all."""
    part = out.with_suffix(".part")
    part.write_bytes(answer)
    part.replace(out)

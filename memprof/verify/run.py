"""A scenario run for real in a process of its own, beside what each engine predicts: one piece of evidence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from memprof import __version__, api
from memprof.catalog.resolve import find_config
from memprof.errors import MeasurementError, MemprofError
from memprof.measure.child import Answer, Request
from memprof.model.evidence import Environment, Evidence, Prediction
from memprof.model.scenario import Allocator, Scenario

ENGINES = ("analytic", "trace")
TIME_LIMIT_S = 300.0
_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The first is read by torch 2.9 and newer, the second by all."""


def run(
    scenario: Scenario,
    *,
    name: str,
    command: str = "",
    limit_bytes: int | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    tape: str | None = None,
) -> Evidence:
    """Measures and, meanwhile, predicts a scenario; whatever happens to the run is its status, never an exception.

    Args:
        scenario: ``device`` says where: ``cpu``, or the catalog's name of the card that is there or stands in.
        name: of the record.
        command: what the user typed.
        limit_bytes: caps what the card's allocator may reserve.
        time_limit_s: after which the run is ended and counts as hung.
        tape: where the allocator's history goes; CUDA only.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        predicted = {engine: pool.submit(predict, scenario, engine) for engine in ENGINES}
        answer = measured(scenario, limit_bytes=limit_bytes, time_limit_s=time_limit_s, tape=tape)
    stated, config = portable(scenario)
    return Evidence(
        name=name,
        recorded_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        command=command,
        environment=answer.environment or Environment(device=scenario.device, limit_bytes=limit_bytes),
        scenario=stated,
        model_config=config,
        status=answer.status,
        message=answer.message,
        measured=answer.measured,
        predicted={engine: waiting.result() for engine, waiting in predicted.items()},
    )


def portable(scenario: Scenario) -> tuple[Scenario, dict[str, Any]]:
    """The scenario as a record states it: of a model that is named by its path, the file's name and its config."""
    path = Path(scenario.model)
    if not path.exists():
        return scenario, {}
    config, _ = find_config(scenario.model)
    return msgspec.structs.replace(scenario, model=path.name), config


def measured(scenario: Scenario, *, limit_bytes: int | None, time_limit_s: float, tape: str | None = None) -> Answer:
    """What a process of its own says of the scenario."""
    with tempfile.TemporaryDirectory(prefix="memprof-") as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked = Request(scenario=scenario, parent=os.getpid(), limit_bytes=limit_bytes, tape=tape)
        request.write_bytes(msgspec.json.encode(asked))
        command = [sys.executable, "-m", "memprof.measure.child", str(request), str(answer)]
        with _child(command, _variables(scenario.allocator)) as process:
            try:
                _, said = process.communicate(timeout=time_limit_s)
            except subprocess.TimeoutExpired:
                return Answer(status="timeout", message=f"ended after {time_limit_s:g} s")
        if answer.exists():
            return msgspec.json.decode(answer.read_bytes(), type=Answer)
        return Answer(status="crash", message=_how_it_ended(process.returncode, said))


def predict(scenario: Scenario, engine: str) -> Prediction:
    """What an engine says today, or why it does not."""
    try:
        result = api.estimate(scenario, engine=engine)
    except MemprofError as error:
        return Prediction(memprof_version=__version__, refused=str(error))
    return Prediction(
        memprof_version=__version__,
        peak_requested_bytes=result.peak.requested_bytes,
        peak_allocated_bytes=result.peak.allocated_bytes,
        peak_reserved_bytes=result.peak.reserved_bytes,
        device_bytes=result.peak.device_bytes,
        phase_peak_bytes=result.phase_peak_bytes,
        component_bytes=result.persistent_bytes,
        status=result.verdict.status,
    )


@contextmanager
def _child(command: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, all of which is gone afterwards."""
    try:
        process = subprocess.Popen(
            command,
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise MeasurementError(f"cannot start a process for the run: {error.strerror}") from None
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # nobody of the group is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _variables(allocator: Allocator) -> dict[str, str]:
    """This process' environment, in which the allocator's settings are the scenario's alone."""
    variables = {name: value for name, value in os.environ.items() if name not in _ALLOCATOR_VARIABLES}
    fields = ((name, getattr(allocator, name)) for name in allocator.__struct_fields__)
    settings = ",".join(f"{name}:{value}" for name, value in fields if value not in (None, False))
    return variables | (dict.fromkeys(_ALLOCATOR_VARIABLES, settings) if settings else {})


def _how_it_ended(code: int, said: str) -> str:
    lines = [line for line in said.strip().splitlines() if line.strip()]
    last = f": {lines[-1]}" if lines else ""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}{last}"
    return f"ended with exit code {code} and no answer{last}"

"""One run in a process of its own: ``python -m memprof.measure.child REQUEST ANSWER``.

An out-of-memory, a crash or a hang then ends this process alone. The request and the answer are JSON files; the answer
appears whole or not at all. When the process that asked is gone, this one ends too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

import msgspec

from memprof.catalog.device_catalog import device as find_device
from memprof.errors import MemprofError
from memprof.model.evidence import Environment, Measurement, Status
from memprof.model.scenario import Scenario
from memprof.semantics.device import semantics_for

_PR_SET_PDEATHSIG = 1
"""Source: prctl(2), linux/prctl.h."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to run; ``parent`` is the process that waits for the answer."""

    scenario: Scenario
    parent: int
    limit_bytes: int | None = None
    tape: str | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How it went. ``environment`` is None where not even that could be told."""

    status: Status
    message: str = ""
    measured: Measurement = Measurement()
    environment: Environment | None = None


def main() -> None:
    """Reads the request, runs it, writes the answer."""
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request)
    _die_with(request.parent)
    out = Path(sys.argv[2])
    part = out.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(run(request)))
    part.replace(out)


def run(request: Request) -> Answer:
    """Runs a scenario in this process."""
    import torch

    environment = None
    try:
        from memprof.measure import cpu, machine

        scenario = request.scenario
        on_cpu = scenario.device == "cpu"
        threads = cpu.NUM_THREADS if on_cpu else None
        environment = machine.environment(scenario.device, limit_bytes=request.limit_bytes, num_threads=threads)
        measured = _measured(request)
    except (torch.OutOfMemoryError, MemoryError) as error:
        return Answer(status="oom", message=_line(error), environment=environment, measured=_at_failure())
    except MemprofError as error:
        return Answer(status="error", message=str(error), environment=environment)
    except Exception as error:  # noqa: BLE001 - whatever a model raises is what the run showed
        return Answer(status="error", message=f"{type(error).__name__}: {_line(error)}", environment=environment)
    return Answer(status="ok", measured=measured, environment=environment)


def _measured(request: Request) -> Measurement:
    from memprof.workload.build import build
    from memprof.workload.scenario import complete

    semantics = semantics_for(find_device(request.scenario.device), request.scenario.software)
    scenario, config = complete(request.scenario, semantics, False)
    if scenario.device == "cpu":
        from memprof.measure import cpu

        return cpu.measure(lambda: build(scenario, config), scenario)
    from memprof.measure import cuda

    return cuda.measure(lambda: build(scenario, config), scenario, limit_bytes=request.limit_bytes, tape=request.tape)


def _at_failure() -> Measurement:
    """What the allocator had reached when a request failed."""
    import torch

    if not torch.cuda.is_available():
        return Measurement()
    stats = torch.cuda.memory_stats()
    return Measurement(
        peak_requested_bytes=int(stats.get("requested_bytes.all.peak", 0)),
        peak_allocated_bytes=int(stats.get("allocated_bytes.all.peak", 0)),
        peak_reserved_bytes=int(stats.get("reserved_bytes.all.peak", 0)),
        num_alloc_retries=int(stats.get("num_alloc_retries", 0)),
    )


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _die_with(parent: int) -> None:
    """Where the system can, it ends this process when its parent ends; it may be gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

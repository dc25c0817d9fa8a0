"""One run in a process of its own: ``python -m memprof.measure.child REQUEST ANSWER``.

An out-of-memory, a crash or a hang then ends this process alone. The request and the answer are JSON files; the answer
appears whole or not at all. When the process that asked is gone, this one ends too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from memprof.catalog.device_catalog import device as find_device
from memprof.errors import MemprofError
from memprof.measure import lifeline
from memprof.measure.meters import LOG_LEVEL
from memprof.measure.ranks import backend_of
from memprof.model.evidence import Environment, Measurement, Status
from memprof.model.scenario import Scenario
from memprof.semantics.device import semantics_for
from memprof.workload.parallel import world_size

if TYPE_CHECKING:
    from memprof.workload.workload import Workload


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to run.

    ``meeting`` is the name under which the ranks of this run find each other; None: it is rank 0, alone.
    """

    scenario: Scenario
    meeting: str | None = None
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
    lifeline.hold()
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request)
    if request.meeting is not None and request.scenario.device == "cpu":
        os.environ |= LOG_LEVEL
    out = Path(sys.argv[2])
    part = out.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(run(request)))
    part.replace(out)


def run(request: Request) -> Answer:
    """Runs a scenario in this process."""
    environment = None
    try:
        from memprof.measure import cpu, machine

        scenario = request.scenario
        on_cpu = scenario.device == "cpu"
        threads = cpu.NUM_THREADS if on_cpu else None
        environment = machine.environment(
            scenario.device,
            limit_bytes=request.limit_bytes,
            num_threads=threads,
            world_size=world_size(scenario.parallelism),
            process_group=backend_of(scenario, request.meeting),
        )
        measured = _measured(request)
    except MemprofError as error:
        return Answer(status="error", message=str(error), environment=environment)
    except Exception as error:  # noqa: BLE001 - whatever a model raises is what the run showed
        if _is_out_of_memory(error):
            return Answer(status="oom", message=_line(error), environment=environment, measured=_at_failure())
        return Answer(status="error", message=f"{type(error).__name__}: {_line(error)}", environment=environment)
    return Answer(status="ok", measured=measured, environment=environment)


def _measured(request: Request) -> Measurement:
    from memprof.measure.surroundings import compiled, refuse_unmeasured
    from memprof.workload.attention import only_kernel
    from memprof.workload.build import build
    from memprof.workload.scenario import complete

    refuse_unmeasured(request.scenario)
    semantics = semantics_for(find_device(request.scenario.device), request.scenario.software)
    scenario, config = complete(request.scenario, semantics, False)

    def make() -> Workload:
        return compiled(build(scenario, config), scenario)

    with only_kernel(scenario.attention):
        if scenario.device == "cpu":
            from memprof.measure import cpu

            return cpu.measure(make, scenario, meeting=request.meeting)
        from memprof.measure import cuda

        return cuda.measure(make, scenario, limit_bytes=request.limit_bytes, tape=request.tape, meeting=request.meeting)


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


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch's CPU allocator has no class of its own for it. Source: c10/core/impl/alloc_cpu.cpp."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


if __name__ == "__main__":
    main()

"""Real runs over gloo: what each step of a scenario allocates on rank 0, from the log of PyTorch's own CPU allocator.

The profiler follows one thread, and gloo's threads free what the main one made; the allocator logs every thread's
allocations with the total, when its flag is set. ``launch`` starts this module with torchrun.

Source: https://github.com/pytorch/pytorch/blob/main/c10/core/CPUAllocator.cpp (caffe2_report_cpu_memory_usage).
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

from memprof.model.scenario import Scenario
from memprof.workload.build import build
from memprof.workload.loops import autocast_on, loop_of
from memprof.workload.parallel import mesh_of, replicate, shard

NUM_STEPS = 3
_ROOT = Path(__file__).parents[2]
_MARK = "memprof: "
_TOTAL = re.compile(rf"total alloc (\d+) bytes|{_MARK}(\w+)")


class Run(msgspec.Struct):
    """A scenario and the config of its model."""

    scenario: Scenario
    config: dict[str, Any]


class Measured(msgspec.Struct):
    """Bytes on rank 0: alive before the first step, and the highest in each step."""

    load: int
    steps: list[int]

    @property
    def peaks(self) -> list[int]:
        """Of load, the first step and a later one: the lower, as a thread that is late can only add."""
        return [self.load, self.steps[0], min(self.steps[1:])]


def launch(runs: Sequence[Run], num_ranks: int, folder: Path) -> list[Measured]:
    """Plays the runs on as many processes, one after the other."""
    asked, log = folder / "runs.json", folder / "allocations.log"
    asked.write_bytes(msgspec.json.encode(runs))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    done = subprocess.run(
        [sys.executable, *command, "-m", "tests.support.gloo", str(asked), str(log)],
        cwd=_ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "INFO"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(_measured(log.read_text()))


def _measured(log: str) -> list[Measured]:
    """Totals between the marks ``begin`` (before the model is built), ``step`` (before each) and ``end``."""
    out: list[Measured] = []
    before = total = 0
    for number, mark in _TOTAL.findall(log):
        if mark == "begin":
            before = total
            out.append(Measured(0, []))
        elif mark == "step":
            out[-1].load = out[-1].load or total - before
            out[-1].steps.append(total - before)
        elif number:
            total = int(number)
            if out and out[-1].steps:
                out[-1].steps[-1] = max(out[-1].steps[-1], total - before)
    return out


# ---- one rank ----


class _Silent:
    def phase(self, phase: object) -> None:
        """Nobody follows."""


def _mark(what: str) -> None:
    os.write(sys.stderr.fileno(), f"{_MARK}{what}\n".encode())


def _play(run: Run) -> None:
    gc.collect()
    _mark("begin")
    scenario = run.scenario
    workload = build(scenario, run.config)
    mesh = mesh_of(scenario.parallelism, "cpu")
    shard(workload.model, scenario, mesh)
    workload = replicate(workload, scenario, mesh)
    batch = workload.batch()
    loop = loop_of(workload, scenario, _Silent(), autocast_on("cpu"))
    gc.collect()
    for _ in range(NUM_STEPS):
        _mark("step")
        loop.step(batch)


def _patient(collective: Callable[..., Any]) -> Callable[..., Any]:
    """Gloo's thread lets go of its tensors a moment after the collective is done; what follows waits for that."""

    def run(*args: Any, **kwargs: Any) -> Any:
        out = collective(*args, **kwargs)
        time.sleep(0.02)
        return out

    return run


def _log_allocations(log: Path) -> None:
    """From here on, this process' standard error is the log, and the allocator writes to it."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    ctypes.c_bool.in_dll(library, "FLAGS_caffe2_report_cpu_memory_usage").value = True


def main(asked: Path, log: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    gc.disable()
    if dist.get_rank() == 0:
        _log_allocations(log)
    for name in ("all_gather_single", "reduce_scatter_single", "all_reduce"):  # as FSDP calls them
        setattr(dist, name, _patient(getattr(dist, name)))
    functional.wait_tensor = _patient(functional.wait_tensor)  # as DTensor does
    try:
        for run in msgspec.json.decode(asked.read_bytes(), type=list[Run]):
            _play(run)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

"""A scenario run for real on a CUDA device: what the caching allocator, NVML and CUDA's own clock report."""

from __future__ import annotations

import gc
import resource
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memprof.errors import DeviceError
from memprof.measure.ranks import Group, joined
from memprof.measure.surroundings import component_bytes, step_always
from memprof.model.evidence import Measurement
from memprof.model.scenario import Scenario
from memprof.model.timeline import Phase
from memprof.workload.loops import autocast_on, loop_of
from memprof.workload.workload import Workload

_WARM_STEPS, _TIMED_STEPS = 2, 5
_KIB = 1024
_HISTORY_EVENTS = 1_000_000


def measure(
    make: Callable[[], Workload],
    scenario: Scenario,
    *,
    limit_bytes: int | None = None,
    tape: str | None = None,
    meeting: str | None = None,
) -> Measurement:
    """Plays a first and later steps; peaks are the highest over all, the phases' those of each phase.

    Args:
        make: builds the workload on the current device.
        scenario: what runs.
        limit_bytes: caps what the allocator may reserve, so that a larger card stands for a smaller one.
        tape: where the allocator's history is written to as a tape; None: it is not recorded.
        meeting: name under which the ranks of this run meet; None: this process is rank 0, alone.

    Raises:
        DeviceError: there is no CUDA device.
        torch.OutOfMemoryError: the run did not fit, which is a result of its own.
    """
    import torch
    from torch.utils._pytree import tree_map_only

    if not torch.cuda.is_available():
        raise DeviceError("no CUDA device is there", "choose --device cpu, or run where a GPU is")
    with joined(scenario, meeting) as group:
        torch.manual_seed(scenario.seed)
        if limit_bytes is not None:
            _, total_bytes = torch.cuda.mem_get_info()
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total_bytes))
        if tape is not None:
            torch.cuda.memory._record_memory_history(max_entries=_HISTORY_EVENTS)  # noqa: SLF001
        with torch.device("cuda"):
            workload = _on_card(make, scenario, group)
            batch = tree_map_only(torch.Tensor, torch.Tensor.cuda, workload.batch())
        gc.collect()
        torch.cuda.empty_cache()  # of what only building takes, such as weights before they become 4-bit ones
        torch.cuda.reset_peak_memory_stats()
        peaks = PhasePeaks()
        peaks.phase(Phase.LOAD)
        loop = loop_of(group.replicate(workload, scenario), scenario, peaks, autocast_on("cuda"))
        step_always(loop, scenario, "cuda")
        for stage in ("first_step", "step", "step"):
            peaks.stage(stage)
            loop.step(batch)
        peaks.close()
        torch.cuda.synchronize()
        device_bytes = process_bytes()
        reserved_now = torch.cuda.memory_reserved()
        if tape is not None:
            write_history(tape)
        seconds = _step_seconds(lambda: loop.step(batch))
    num_tokens = _num_tokens(batch) * scenario.batch.gradient_accumulation_steps
    return Measurement(
        peak_requested_bytes=peaks.requested_bytes,
        peak_allocated_bytes=peaks.allocated_bytes,
        peak_reserved_bytes=peaks.reserved_bytes,
        device_bytes=device_bytes,
        context_bytes=None if device_bytes is None else device_bytes - reserved_now,
        phase_peak_bytes=peaks.by_name,
        component_bytes=component_bytes(loop, "cuda"),
        num_alloc_retries=int(torch.cuda.memory_stats().get("num_alloc_retries", 0)),
        host_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB,
        step_s=seconds,
        tokens_per_s=num_tokens / seconds if seconds else None,
        tape=tape,
    )


class PhasePeaks:
    """Reads and resets the allocator's peaks at each change of phase.

    Attributes:
        by_name: highest requested bytes of each phase and stage.
        requested_bytes, allocated_bytes, reserved_bytes: the highest of all.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, int] = {}
        self.requested_bytes = self.allocated_bytes = self.reserved_bytes = 0
        self._names: list[str] = []
        self._stage = ""

    def stage(self, name: str) -> None:
        """A step of this name begins."""
        self._read()
        self._stage, self._names = name, []

    def phase(self, phase: Phase) -> None:
        """What was before this phase is over."""
        self._read()
        self._names = [phase.value]

    def close(self) -> None:
        """The last phase is over."""
        self._read()
        self._stage, self._names = "", []

    def _read(self) -> None:
        import torch

        stats = torch.cuda.memory_stats()
        requested = int(stats.get("requested_bytes.all.peak", 0))
        for name in (*self._names, self._stage):
            if name:
                self.by_name[name] = max(self.by_name.get(name, 0), requested)
        self.requested_bytes = max(self.requested_bytes, requested)
        self.allocated_bytes = max(self.allocated_bytes, int(stats.get("allocated_bytes.all.peak", 0)))
        self.reserved_bytes = max(self.reserved_bytes, int(stats.get("reserved_bytes.all.peak", 0)))
        torch.cuda.reset_peak_memory_stats()


def process_bytes() -> int | None:
    """What NVML reports for this process on the current device; None where it does not tell processes apart.

    Source: https://docs.nvidia.com/deploy/nvml-api/ (``nvmlDeviceGetComputeRunningProcesses``).
    """
    import os

    import torch

    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties().uuid}")
        rows = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        mine = [row.usedGpuMemory for row in rows if row.pid == os.getpid() and row.usedGpuMemory]
        if mine:
            return int(mine[0])
        # In a container process ids differ: alone on the device, the process is all that is used beside the driver's.
        return int(rows[0].usedGpuMemory) if len(rows) == 1 and rows[0].usedGpuMemory else None
    except pynvml.NVMLError:
        return None
    finally:
        _shut_down(pynvml)


def _shut_down(pynvml: Any) -> None:
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return


def write_history(path: str) -> None:
    """Writes the allocator's history as a tape, and stops recording it."""
    import pickle
    import tempfile

    import torch

    from memprof.measure.snapshot import tape_of_file
    from memprof.tapes import write_tape

    with tempfile.TemporaryDirectory(prefix="memprof-") as folder:
        snapshot = Path(folder) / "snapshot.pickle"
        snapshot.write_bytes(pickle.dumps(torch.cuda.memory._snapshot()))  # noqa: SLF001
        torch.cuda.memory._record_memory_history(enabled=None)  # noqa: SLF001
        tape, _ = tape_of_file(snapshot)
    write_tape(tape, path)


def _on_card(make: Callable[[], Workload], scenario: Scenario, group: Group) -> Workload:
    """The workload, its model sharded on the card; in host memory, which takes minutes, where the card is too small."""
    import torch

    is_sharded = group.mesh is not None and scenario.parallelism.strategy != "ddp"
    try:
        workload = make()
    except torch.OutOfMemoryError:
        if not is_sharded:
            raise
        with torch.device("cpu"):
            workload = make()
    if is_sharded:
        group.shard(workload.model, scenario)
        workload.model.to("cuda")
    return workload


def _num_tokens(batch: Any) -> int:
    values = list(batch.values() if hasattr(batch, "values") else batch)
    return int(values[0].numel()) if values else 0


def _step_seconds(step: Callable[[], None]) -> float:
    """Median over some steps, by CUDA's events, after warm-up."""
    import torch

    for _ in range(_WARM_STEPS):
        step()
    seconds = []
    for _ in range(_TIMED_STEPS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
    return statistics.median(seconds)

"""A scenario run for real on the CPU: every allocation that PyTorch's profiler sees, and the time of later steps."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from memprof.measure.phases import PhaseRanges
from memprof.model.evidence import Measurement
from memprof.model.scenario import Scenario
from memprof.workload.inference import InferenceLoop
from memprof.workload.loop import TrainingLoop
from memprof.workload.optimizers import make_optimizer
from memprof.workload.workload import Workload

NUM_THREADS = 1
"""Kernels keep scratch for each thread, so a run is repeatable, and its prediction exact, with a fixed number."""
_TIMED_STEPS = 3
_KIB = 1024


def measure(make: Callable[[], Workload], scenario: Scenario) -> Measurement:
    """Plays a first and a second step under the profiler, then a few without it for their time.

    Excluded are the temporaries of building the model: resident bytes are those of its tensors.
    """
    import torch

    torch.set_num_threads(NUM_THREADS)
    torch.manual_seed(scenario.seed)
    workload = make()
    batch = workload.batch()
    values = batch.values() if hasattr(batch, "values") else batch
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    resident = storage_bytes([*_model_tensors(workload.model), *tensors])
    ranges = PhaseRanges()
    with recorded() as record, torch.profiler.record_function("load"):
        loop = real_loop(workload, scenario, ranges, torch.autocast)
    built = list(allocations(record))
    with recorded() as record:
        for name in ("first_step", "step"):
            with torch.profiler.record_function(name), ranges:
                loop.step(batch)
    peaks = _peaks(resident, [*built, *allocations(record)])
    seconds = _step_seconds(lambda: loop.step(batch))
    num_tokens = tensors[0].numel() * scenario.batch.gradient_accumulation_steps if tensors else 0
    return Measurement(
        peak_requested_bytes=max(peaks.values()),
        phase_peak_bytes=peaks,
        host_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB,
        step_s=seconds,
        tokens_per_s=num_tokens / seconds if seconds else None,
    )


def real_loop(workload: Workload, scenario: Scenario, watcher: Any, autocast: Any) -> TrainingLoop | InferenceLoop:
    """The scenario's loop over a workload on this machine's own kernels."""
    import torch

    def context(dtype: str) -> Any:
        return autocast("cpu", dtype=getattr(torch, dtype))

    if scenario.mode == "inference":
        return InferenceLoop(workload, scenario, watcher, context)
    optimizer = make_optimizer(scenario.optimizer, workload.model.parameters())
    return TrainingLoop(workload, optimizer, scenario, watcher, context)


@contextmanager
def recorded() -> Iterator[Any]:
    """PyTorch's profiler over memory, with Python's garbage collector kept out of what it sees."""
    from torch.profiler import ProfilerActivity, profile

    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
            yield record
    finally:
        gc.enable()


def allocations(record: Any) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Bytes asked for (positive) or given back (negative), and the ranges around it, outermost first; in order."""
    found: list[tuple[int, int, tuple[str, ...]]] = []
    waiting: list[tuple[Any, tuple[str, ...]]] = [
        (event, ()) for event in record.profiler.kineto_results.experimental_event_tree()
    ]
    while waiting:
        event, path = waiting.pop()
        if event.name == "[memory]":
            found.append((event.start_time_ns, event.extra_fields.alloc_size, path))
        waiting += [(child, (*path, event.name)) for child in event.children]
    found.sort(key=lambda item: item[0])
    return ((num_bytes, path) for _, num_bytes, path in found)


def storage_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the storages below some tensors, each counted once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}  # noqa: SLF001
    return sum(storages.values())


def _model_tensors(model: Any) -> Iterator[Any]:
    """Parameters, buffers, and what bitsandbytes hangs on quantized weights."""
    import torch

    from memprof.workload.quantize import scales_of

    for parameter in model.parameters():
        yield parameter
        yield from scales_of(parameter)
    yield from (buffer for buffer in model.buffers() if isinstance(buffer, torch.Tensor))


def _peaks(resident: int, events: Iterable[tuple[int, tuple[str, ...]]]) -> dict[str, int]:
    now = resident
    peaks = {"load": now}
    for num_bytes, path in events:
        before, now = now, now + num_bytes
        for name in path[:2]:
            peaks[name] = max(peaks.get(name, before), now)
    return peaks


def _step_seconds(step: Callable[[], None]) -> float:
    seconds = []
    for _ in range(_TIMED_STEPS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)

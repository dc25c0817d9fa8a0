"""A scenario run for real on the CPU: every allocation of its steps, and the time of later ones."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from memprof.measure.meters import LogMeter, ProfilerMeter
from memprof.measure.ranks import joined
from memprof.measure.surroundings import component_bytes, step_always
from memprof.model.evidence import Measurement
from memprof.model.scenario import Scenario
from memprof.workload.loops import autocast_on, loop_of
from memprof.workload.workload import Workload

NUM_THREADS = 1
"""Kernels keep scratch for each thread, so a run is repeatable, and its prediction exact, with a fixed number."""
_TIMED_STEPS = 3
_KIB = 1024


def measure(make: Callable[[], Workload], scenario: Scenario, *, meeting: str | None = None) -> Measurement:
    """Plays a first and a second step under a meter, then a few without it for their time.

    Excluded are the temporaries of building the model: resident bytes are those of its tensors.

    Args:
        make: builds the workload.
        scenario: what runs.
        meeting: name under which the ranks of this run meet; None: this process is rank 0, alone.
    """
    import torch

    torch.set_num_threads(NUM_THREADS)
    with joined(scenario, meeting) as group:
        torch.manual_seed(scenario.seed)
        meter = LogMeter() if group.backend == "gloo" else ProfilerMeter()
        with meter.running():
            workload = make()
            group.shard(workload.model, scenario)
            batch = workload.batch()
            values = batch.values() if hasattr(batch, "values") else batch
            tensors = [value for value in values if isinstance(value, torch.Tensor)]
            meter.built([*_model_tensors(workload.model), *tensors])
            with meter.stage("load"):
                loop = loop_of(group.replicate(workload, scenario), scenario, meter, autocast_on("cpu"))
                step_always(loop, scenario, "cpu")
            for name in ("first_step", "step"):
                with meter.stage(name):
                    loop.step(batch)
        seconds = _step_seconds(lambda: loop.step(batch))
    num_tokens = tensors[0].numel() * scenario.batch.gradient_accumulation_steps if tensors else 0
    return Measurement(
        peak_requested_bytes=max(meter.peaks.values()),
        phase_peak_bytes=meter.peaks,
        component_bytes=component_bytes(loop, "cpu"),
        host_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB,
        step_s=seconds,
        tokens_per_s=num_tokens / seconds if seconds else None,
    )


def _model_tensors(model: Any) -> Iterator[Any]:
    """Parameters, buffers, and what bitsandbytes hangs on quantized weights."""
    import torch

    from memprof.workload.quantize import scales_of

    for parameter in model.parameters():
        yield parameter
        yield from scales_of(parameter)
    yield from (buffer for buffer in model.buffers() if isinstance(buffer, torch.Tensor))


def _step_seconds(step: Callable[[], None]) -> float:
    seconds = []
    for _ in range(_TIMED_STEPS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)

"""One run's record: where it ran, what, what was measured, and what each engine had said at that time.

Files of the evidence store hold one each. Fields are only ever added; ``schema_version`` grows when one changes its
meaning.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from memprof.model.scenario import Scenario

EVIDENCE_VERSION = 1

Status = Literal["ok", "oom", "timeout", "crash", "error"]


class Environment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a run took place.

    Attributes:
        device: catalog name of the card whose rules hold, or ``cpu``; ``limit_bytes`` caps it.
        gpu: name that the driver reports. ``total_bytes``: what ``cudaMemGetInfo`` reports as the total.
        num_threads: of a CPU run.
        process_group: of several ranks: ``nccl``, ``gloo``, or ``fake`` where rank 0 was run alone.
        versions: of torch, transformers, CUDA, the driver and the rest, as far as known.
    """

    device: str
    gpu: str | None = None
    total_bytes: int | None = None
    limit_bytes: int | None = None
    num_threads: int | None = None
    world_size: int = 1
    process_group: str | None = None
    platform: str = ""
    versions: dict[str, str | None] = {}


class Measurement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run showed; bytes and seconds, None where this kind of machine does not show it.

    Attributes:
        peak_requested_bytes: highest sum of requested bytes; on the CPU what PyTorch's profiler saw.
        device_bytes: what NVML reported for the process at its highest reading.
        context_bytes: device bytes that are no allocator's: the CUDA context and libraries.
        phase_peak_bytes: requested bytes by phase and by stage, or allocated ones where torch keeps no peak of them.
        component_bytes: of components that the run shows apart, such as the weights right after loading.
        host_rss_bytes: highest resident set of the process.
        step_s: median of the timed steps, after warm-up.
        ranks: per rank peak of requested bytes, where there are several; the measurement is the worst rank's.
        tape: file name of the memory history, beside the record.
    """

    peak_requested_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    device_bytes: int | None = None
    context_bytes: int | None = None
    phase_peak_bytes: dict[str, int] = {}
    component_bytes: dict[str, int] = {}
    num_alloc_retries: int | None = None
    host_rss_bytes: int | None = None
    step_s: float | None = None
    tokens_per_s: float | None = None
    ranks: list[int] = []
    tape: str | None = None


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an engine said, or why it did not."""

    memprof_version: str = ""
    peak_requested_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    device_bytes: int | None = None
    phase_peak_bytes: dict[str, int | None] = {}
    component_bytes: dict[str, int] = {}
    status: str | None = None
    refused: str | None = None


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run.

    Attributes:
        name: unique in a suite.
        source: where a run of others was published.
        assumed: what the scenario or the figures take for granted and the source does not say; such a run is scored,
            but no band rests on it.
        model_config: the model's config.json, where ``scenario.model`` is a path that is only known there.
    """

    schema_version: int = EVIDENCE_VERSION
    name: str
    recorded_at: str = ""
    source: str = ""
    command: str = ""
    environment: Environment
    scenario: Scenario
    assumed: list[str] = []
    model_config: dict[str, Any] = {}
    status: Status
    message: str = ""
    measured: Measurement = Measurement()
    predicted: dict[str, Prediction] = {}
    notes: dict[str, Any] = {}

"""What Python users call: a Scenario in, a Result out.

``estimate`` picks the engine, plays the allocator, adds the verdict; it is the only module that knows all engines.
"""

from __future__ import annotations

import os
import time
from math import prod
from typing import Any, Literal

from memprof import __version__
from memprof.allocator import folded, samples
from memprof.allocator.play import play
from memprof.allocator.result import PlayResult
from memprof.allocator.settings import Settings
from memprof.alternatives import other_ways
from memprof.analytic import engine as analytic
from memprof.catalog import bands
from memprof.catalog.device_catalog import device as find_device
from memprof.engines import Answer, Progress, answer, architecture_of
from memprof.errors import MemprofError
from memprof.model import consistency
from memprof.model.architecture import Architecture
from memprof.model.device import Device
from memprof.model.dtypes import ITEM_BYTES
from memprof.model.result import Alternative, Bounds, DeviceSummary, Evidence, Made, Peak, Result, Table, Verdict
from memprof.model.scenario import Scenario, to_builtins
from memprof.model.timeline import Component, Timeline
from memprof.semantics.device import Semantics, semantics_for
from memprof.semantics.optimizers import warnings as optimizer_warnings

TIGHT = 0.03
"""Less than this share of the device left over is called tight."""
NO_BOUNDS = Bounds()
_BLOCK_BYTES = 512
"""The CUDA caching allocator hands out multiples of this. Source: c10/cuda/CUDACachingAllocator.h ``kMinBlockSize``."""


def estimate(
    scenario: Scenario,
    *,
    engine: str = "auto",
    online: bool = False,
    explain: bool = False,
    alternatives: bool = False,
    timeline_points: int = 300,
    command: str = "",
    progress: Progress | None = None,
) -> Result:
    """Predicts the memory of one training or inference step.

    Args:
        scenario: what runs, on what.
        engine: ``analytic``, ``trace``, or ``auto``: analytic where it models the model and the scenario.
        online: whether a hub id that the catalog lacks may be looked up.
        explain: whether ``terms`` of the result are filled in.
        alternatives: whether other ways to run the model are estimated too.
        timeline_points: how many points of the timeline the result shows; 0 spares the search for them.
        command: what the user typed, for the record.
        progress: told what a trace is doing.

    Raises:
        MemprofError: the scenario contradicts itself, or names what is not known or not modelled.
    """
    consistency.check(scenario)
    device = find_device(scenario.device)
    semantics = semantics_for(device, scenario.software)
    answered = answer(scenario, semantics, engine, online=online, progress=progress)
    scenario = answered.scenario
    timeline = answered.timeline
    peak = folded.peaks(timeline)
    simulated = _simulated(timeline, scenario, device)
    allocated_bytes = peak.num_bytes if simulated is None else simulated.peak_allocated_bytes
    reserved_bytes = None if simulated is None else simulated.peak_reserved_bytes
    alive = folded.alive(timeline, peak.point)
    kind, rung = bands.kind_of(scenario), answered.evidence.rung
    recorded = bands.find(rung, device.architecture, kind)
    bounds = bands.bounds(recorded, allocated_bytes, reserved_bytes)
    parts = {component.value: alive.components.get(component, 0) for component in Component}
    parts["rounding"] = allocated_bytes - peak.num_bytes
    where = folded.describe(timeline, peak.point)
    result = Result(
        memprof_version=__version__,
        engine=answered.engine,
        scenario=to_builtins(scenario),
        device=DeviceSummary(name=device.name, total_bytes=device.total_bytes),
        num_parameters=answered.num_parameters,
        num_trainable_parameters=answered.num_trainable,
        peak=Peak(
            requested_bytes=peak.num_bytes,
            allocated_bytes=allocated_bytes,
            reserved_bytes=reserved_bytes,
            device_bytes=None,
            phase=where.phase,
            module=where.module,
        ),
        at_peak_bytes=parts,
        persistent_bytes=_persistent(timeline),
        phase_peak_bytes=_phase_peaks(peak, scenario),
        overhead_bytes={
            "fragmentation": None if reserved_bytes is None else reserved_bytes - allocated_bytes,
            "context": None,
            "communicators": None,
        },
        bounds=bounds,
        verdict=_verdict(allocated_bytes if reserved_bytes is None else reserved_bytes, device, simulated, bounds),
        timeline=samples.table(timeline, timeline_points) if timeline_points else Table(),
        modules_at_peak=_modules(alive),
        terms=_terms(answered) if explain else [],
        alternatives=_alternatives(answered, device) if alternatives else [],
        evidence=Evidence(
            rung=rung,
            basis=f"{answered.evidence.basis}; {bands.basis(recorded, device.architecture, kind)}",
        ),
        warnings=[
            *_warnings(scenario, device, semantics),
            *([] if simulated is None else Settings.of(scenario.allocator).warnings),
            *(f"left out of this estimate: {what}" for what in answered.left_out),
        ],
        made=Made(
            command=command,
            software={"memprof": __version__, "torch": answered.torch},
            created_at=_created_at(),
        ),
    )
    result.check()
    return result


def _created_at() -> str:
    """Now, or SOURCE_DATE_EPOCH, under which the same run gives the same bytes.

    Source: https://reproducible-builds.org/specs/source-date-epoch/
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(epoch) if epoch.isdecimal() else None))


def allocated(scenario: Scenario) -> int:
    """Peak allocated bytes alone: the quick answer for sweeps.

    Raises:
        MemprofError: as ``estimate``.
    """
    consistency.check(scenario)
    device = find_device(scenario.device)
    architecture = architecture_of(scenario.model, scenario.task)
    return _allocated(scenario, architecture, device)


def _allocated(scenario: Scenario, architecture: Architecture, device: Device) -> int:
    played = analytic.play(architecture, scenario, semantics_for(device, scenario.software))
    return folded.peaks(played.timeline, _rounding(device)).num_bytes


def _rounding(device: Device) -> int:
    return 1 if device.kind == "cpu" else _BLOCK_BYTES


def _simulated(timeline: Timeline, scenario: Scenario, device: Device) -> PlayResult | None:
    """What the caching allocator makes of the step; None on the CPU, which has none.

    Played without a limit first. Where that would cache more than the card has, it is played on the card: there the
    allocator gives cached memory back and tries again, and only if that fails is the first answer the true one.
    """
    if device.kind == "cpu":
        return None
    settings = Settings.of(scenario.allocator)
    unlimited = play(timeline, settings)
    total = device.total_bytes
    if total is None or unlimited.peak_reserved_bytes <= total or unlimited.peak_allocated_bytes > total:
        return unlimited
    limited = play(timeline, settings, device_bytes=total)
    return unlimited if limited.oom else limited


def _verdict(
    num_bytes: int, device: Device, simulated: PlayResult | None = None, bounds: Bounds = NO_BOUNDS
) -> Verdict:
    """Of reserved bytes where the allocator was played, else of allocated bytes; the CUDA context comes on top."""
    total = device.total_bytes
    if total is None:
        return Verdict(status="unknown", headroom_bytes=None)
    headroom = total - num_bytes
    low = num_bytes if bounds.reserved_low_bytes is None else bounds.reserved_low_bytes
    high = num_bytes if bounds.reserved_high_bytes is None else bounds.reserved_high_bytes
    status: Literal["fits", "tight", "does_not_fit"] = "fits"
    if low > total:
        status = "does_not_fit"
    elif high > total or headroom < total * TIGHT or (simulated is not None and simulated.num_alloc_retries):
        status = "tight"
    return Verdict(status=status, headroom_bytes=headroom)


def _persistent(timeline: Timeline) -> dict[str, int]:
    """Logical bytes of what a step keeps, whether or not it is alive at the peak."""
    totals = dict.fromkeys((Component.WEIGHTS, Component.GRADIENTS, Component.OPTIMIZER_STATES), 0)
    first = {index for stage, segments in timeline.schedule if stage in ("load", "first_step") for index in segments}
    blocks = timeline.blocks
    for num_bytes, component, home in zip(blocks.num_bytes, blocks.component, blocks.segment, strict=True):
        if component in totals and home in first:
            run = timeline.segments[home].run
            totals[component] += num_bytes * (timeline.runs[run].count if run >= 0 else 1)
    return {component.value: total for component, total in totals.items()}


def _phase_peaks(peaks: folded.Peaks, scenario: Scenario) -> dict[str, int | None]:
    """Highest requested bytes of each phase; None where the mode has no such phase."""
    phases: dict[str, int | None] = {"load": peaks.phases.get("load"), "first_step": peaks.stages["first_step"]}
    for phase in ("forward", "backward", "optimizer"):
        phases[phase] = peaks.phases.get(phase)
    if scenario.mode == "inference":
        phases |= {"prefill": peaks.phases.get("prefill"), "decode": peaks.phases.get("decode")}
    return phases


def _modules(alive: folded.Alive) -> list[dict[str, Any]]:
    rows = sorted(alive.modules.items(), key=lambda item: -item[1])
    return [{"module": module, "component": kind.value, "bytes": size} for (module, kind), size in rows]


def _terms(answered: Answer) -> list[dict[str, Any]]:
    """What is kept all the time, then what autograd saves, op by op, with the shapes that it follows from.

    Of a trace only the former: its shapes are the model's own, and the tape has them op by op.
    """
    terms = [
        {
            "term": component.replace("_", " "),
            "formula": "bytes a parameter x parameters",
            "values": {"bytes": round(num_bytes / answered.num_parameters, 4), "of": answered.num_parameters},
            "bytes": num_bytes,
        }
        for component, num_bytes in _persistent(answered.timeline).items()
    ]
    layers: dict[tuple[str, str, str, int], int] = {}
    for kept in answered.played.saved if answered.played is not None else ():
        whole = prod(kept.shape) * ITEM_BYTES[kept.dtype] == kept.num_bytes
        what = f"({' x '.join(map(str, kept.shape))}) {kept.dtype}" if whole else "a storage that several views share"
        key = (kept.module or "model", kept.op, what, kept.num_bytes)
        layers[key] = layers.get(key, 0) + kept.count
    for (module, op, what, num_bytes), count in layers.items():
        terms.append(
            {
                "term": f"{module}: saved by {op}",
                "formula": f"{count} x {what}",
                "values": {"each": num_bytes},
                "bytes": count * num_bytes,
            }
        )
    return terms


def _alternatives(answered: Answer, device: Device) -> list[Alternative]:
    """Other ways to run the model; none for a trace, which would take its time for each."""
    architecture = answered.architecture
    if architecture is None:
        return []
    out = []
    for name, change, way in other_ways(answered.scenario):
        try:
            consistency.check(way)
            num_bytes = _allocated(way, architecture, device)
        except MemprofError as error:
            row = Alternative(
                name=name, change=change, allocated_bytes=None, device_bytes=None, status="unknown", reason=str(error)
            )
        else:
            row = Alternative(
                name=name,
                change=change,
                allocated_bytes=num_bytes,
                device_bytes=None,
                status=_verdict(num_bytes, device).status,
            )
        out.append(row)
    return out


def _warnings(scenario: Scenario, device: Device, semantics: Semantics) -> list[str]:
    warnings = [*consistency.without_effect(scenario), *semantics.warnings]
    if device.nominal:
        warnings.append(f"the memory of {device.name} is its data sheet's, not what a device reported as its total")
    if scenario.mode == "train":
        warnings += optimizer_warnings(scenario.optimizer, semantics.kind)
    if device.kind == "cpu":
        warnings.append("on the CPU there is no total to fit into and no caching allocator")
    else:
        warnings.append(
            "device bytes are not known: the CUDA context has been measured on no card yet (0.3 to 0.7 GiB are"
            " reported by others); the verdict is of reserved bytes, to which it comes on top"
        )
    return warnings

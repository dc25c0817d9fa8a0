"""Two results of any kind, side by side: settings against settings, predicted against measured, base against head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from memprof import __version__
from memprof.model.comparison import Comparison, Pair, Setting
from memprof.model.result import Result
from memprof.model.snapshot import SnapshotReport

Sizes = Mapping[str, int | None]


class Measured(msgspec.Struct, frozen=True):
    """What results of every kind can say: their kind and bytes by name, and a scenario where there is one."""

    kind: str
    numbers: Sizes
    components: Sizes
    phases: Sizes
    modules: Sizes
    scenario: dict[str, Any] | None


def compare(before: Any, after: Any, names: tuple[str, str], command: str = "") -> Comparison:
    """What differs; parts that are equal in both are left out, the numbers never.

    Args:
        before, after: a Result or a SnapshotReport each.
        names: what the two are called.
        command: what the user typed, for the record.
    """
    a, b = measured(before), measured(after)
    has_both = a.scenario is not None and b.scenario is not None
    return Comparison(
        memprof_version=__version__,
        before=names[0],
        after=names[1],
        kinds=(a.kind, b.kind),
        numbers=_pairs(a.numbers, b.numbers),
        components=_changed(a.components, b.components),
        phases=_changed(a.phases, b.phases),
        modules=_changed(a.modules, b.modules),
        settings=list(_settings(a.scenario or {}, b.scenario or {})) if has_both else [],
        command=command,
    )


def measured(value: Any) -> Measured:
    """The common part of a result.

    Raises:
        TypeError: a value of a kind that has none.
    """
    if isinstance(value, Result):
        return _of_result(value)
    if isinstance(value, SnapshotReport):
        return _of_snapshot(value)
    raise TypeError(f"{type(value).__name__} cannot be compared")


def _of_result(result: Result) -> Measured:
    peak = result.peak
    modules: dict[str, int | None] = {}
    for row in result.modules_at_peak:
        name = row["module"] or "the whole model"
        modules[name] = (modules.get(name) or 0) + row["bytes"]
    return Measured(
        "estimate",
        {
            "requested": peak.requested_bytes,
            "allocated": peak.allocated_bytes,
            "reserved": peak.reserved_bytes,
            "device": peak.device_bytes,
        },
        result.at_peak_bytes,
        result.phase_peak_bytes,
        modules,
        result.scenario,
    )


def _of_snapshot(report: SnapshotReport) -> Measured:
    """Of the device that held most."""
    device = max(report.devices, key=lambda device: device.peak.allocated_bytes)
    modules: dict[str, int | None] = {}
    for holder in device.holders:
        if holder.module:
            modules[holder.module] = (modules.get(holder.module) or 0) + holder.peak_bytes
    return Measured(
        "snapshot",
        {
            "requested": device.peak.requested_bytes,
            "allocated": device.peak.allocated_bytes,
            "reserved": report.recorded[str(device.device)].peak_reserved_bytes,
            "device": None,
        },
        device.at_peak_bytes,
        {},
        modules,
        None,
    )


def _pairs(before: Sizes, after: Sizes) -> list[Pair]:
    names = list(dict.fromkeys([*before, *after]))
    return [Pair(name=name, before_bytes=before.get(name), after_bytes=after.get(name)) for name in names]


def _changed(before: Sizes, after: Sizes) -> list[Pair]:
    """Pairs that differ, the largest change first; what a result does not list it does not have."""
    if not before or not after:
        return []
    pairs = _pairs({**dict.fromkeys(after, 0), **before}, {**dict.fromkeys(before, 0), **after})
    differing = [pair for pair in pairs if pair.change_bytes]
    return sorted(differing, key=lambda pair: -abs(pair.change_bytes or 0))


def _settings(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Setting]:
    old, new = dict(_flat(before)), dict(_flat(after))
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            yield Setting(name=name, before=old.get(name), after=new.get(name))


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item

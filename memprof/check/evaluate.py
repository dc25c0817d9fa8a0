"""A value held against a limit and a baseline.

A check fails iff its value is above the limit, or has grown by more than it may. What cannot be known is unknown, which
is never a pass; that it is at least so much can be enough to fail.
"""

from __future__ import annotations

from typing import NamedTuple

from memprof.check.amounts import amount
from memprof.check.baseline import Entry, component_growth
from memprof.model.check_report import Change, Growth, Level, Limit, Metric, Severity, Status
from memprof.model.result import Result
from memprof.units import gib

_GRAVITY: tuple[Status, ...] = ("passed", "warning", "unknown", "failed")
_SEVERITIES: dict[Level, Severity] = {"error": "error", "warn": "warning", "info": "note"}
_CONTEXT_HINT = "set metric: reserved, or context: to what nvidia-smi shows of such a process beyond its reserved bytes"
_MOVES_CONTEXT = ("device", "parallelism.", "software.")
"""Settings with which the CUDA context and the communicators are others."""


class Value(NamedTuple):
    """Bytes of the metric; where they cannot be known, what they are at least, why, and what to do."""

    num_bytes: int | None
    floor_bytes: int
    low_bytes: int | None = None
    high_bytes: int | None = None
    reason: str | None = None
    hint: str | None = None


class Finding(NamedTuple):
    """What one demand comes to; ``demand`` is the config's key for it."""

    status: Status
    demand: str
    reason: str | None = None
    hint: str | None = None


def worst(findings: list[Finding]) -> Finding:
    """The gravest, the earliest of equals."""
    return max(findings, key=lambda finding: _GRAVITY.index(finding.status))


def severity(status: Status, level: Level) -> Severity | None:
    """A failure and an unknown value count as the level says, a warning as one at most."""
    if status == "passed":
        return None
    return "warning" if status == "warning" and level == "error" else _SEVERITIES[level]


def value_of(result: Result, metric: Metric, context_bytes: int | None) -> Value:
    """The metric's bytes. Device bytes are reserved ones and the context, whoever measured it."""
    peak, bounds = result.peak, result.bounds
    if metric == "allocated":
        return Value(
            peak.allocated_bytes, peak.allocated_bytes, bounds.allocated_low_bytes, bounds.allocated_high_bytes
        )
    if metric == "device" and peak.device_bytes is not None:
        return Value(peak.device_bytes, peak.device_bytes, bounds.device_low_bytes, bounds.device_high_bytes)
    if peak.reserved_bytes is None:
        why = f"{metric} bytes are those of a GPU's caching allocator, and {result.device.name} has none"
        return Value(None, peak.allocated_bytes, reason=why, hint="set metric: allocated")
    if metric == "reserved":
        return Value(peak.reserved_bytes, peak.reserved_bytes, bounds.reserved_low_bytes, bounds.reserved_high_bytes)
    if context_bytes is not None:
        device_bytes = peak.reserved_bytes + context_bytes
        ends = (bounds.reserved_low_bytes, bounds.reserved_high_bytes)
        low, high = (None if end is None else end + context_bytes for end in ends)
        return Value(device_bytes, device_bytes, low, high)
    why = f"the CUDA context on top of {gib(peak.reserved_bytes)} reserved has not been measured"
    return Value(None, peak.reserved_bytes, reason=why, hint=_CONTEXT_HINT)


def against_limit(value: Value, limit: Limit, result: Result) -> Finding:
    """Failed above the limit; a warning where the limit lies inside the band, or above what the card has."""
    if limit.num_bytes is None:
        why = f"{limit.text} of the memory of {result.device.name}, which is not known"
        return Finding("unknown", "limit", why, "write the limit in bytes, such as 72 GiB")
    inside = _inside_band(value, limit.num_bytes)
    if value.floor_bytes > limit.num_bytes:
        return Finding("failed", "limit", inside)
    if value.num_bytes is None:
        return Finding("unknown", "limit", value.reason, value.hint)
    total = result.device.total_bytes
    if total is not None and value.num_bytes > total:
        return Finding("warning", "limit", f"the limit is above the {gib(total)} that {result.device.name} has")
    return Finding("warning" if inside else "passed", "limit", inside)


def growth_of(
    result: Result, metric: Metric, context_bytes: int | None, before: Entry, allowed: str | None, changed: list[Change]
) -> Growth | None:
    """The check beside its baseline; None where one of the two is not known.

    Device bytes that are not known on both sides are compared by what is reserved: the context is the same.
    """
    old, new = before.metrics.get(metric), value_of(result, metric, None).num_bytes
    if metric == "device" and (old is None or new is None):
        old, new = before.metrics.get("reserved"), result.peak.reserved_bytes
        if old is not None and new is not None and context_bytes is not None:
            old, new = old + context_bytes, new + context_bytes
    if old is None or new is None:
        return None
    return Growth(
        before_bytes=old,
        increase_bytes=new - old,
        allowed=None if allowed is None else amount(allowed, old),
        components=component_growth(before.components, result.at_peak_bytes),
        changes=changed,
    )


def against_baseline(growth: Growth | None, value: Value, has_entry: bool) -> Finding:
    """Failed where it has grown by more than ``max_increase``; unknown without a baseline."""
    if growth is None or growth.allowed is None or growth.allowed.num_bytes is None:
        if has_entry:
            return Finding("unknown", "max_increase", value.reason or "the baseline lacks this metric", value.hint)
        hint = "run memprof check --update-baseline and commit the file"
        return Finding("unknown", "max_increase", "no baseline has this check", hint)
    moved = [change.field for change in growth.changes if change.field.startswith(_MOVES_CONTEXT)]
    if value.num_bytes is None and moved:
        why = f"the CUDA context may have changed with {', '.join(moved)}"
        return Finding("unknown", "max_increase", why, _CONTEXT_HINT)
    return Finding("failed" if growth.increase_bytes > growth.allowed.num_bytes else "passed", "max_increase")


def _inside_band(value: Value, limit_bytes: int) -> str | None:
    low, high = value.low_bytes, value.high_bytes
    if low is None or high is None or not low <= limit_bytes < high:
        return None
    return f"the limit lies inside the estimate's band, {gib(low)} to {gib(high)}"

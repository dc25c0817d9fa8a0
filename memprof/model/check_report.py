"""What ``memprof check`` found: one outcome for each check; the field names are those of its JSON."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

SCHEMA_VERSION = 1

Metric = Literal["device", "reserved", "allocated"]
Level = Literal["error", "warn", "info"]
Status = Literal["passed", "warning", "failed", "unknown"]
Severity = Literal["error", "warning", "note"]

STATUSES: tuple[Status, ...] = ("passed", "warning", "failed", "unknown")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a file; ``path`` is relative to the repository's root and has forward slashes."""

    path: str
    line: int | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A setting that differs from the baseline's, by its dotted name, and where it is written now."""

    field: str
    before: Any
    after: Any
    place: Place | None = None


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """A limit as it was written; ``num_bytes`` is None for a share of a memory that is not known."""

    text: str
    num_bytes: int | None


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """A check beside its baseline.

    Attributes:
        before_bytes: the baseline's value.
        increase_bytes: how much more it is now; negative for less.
        allowed: ``max_increase``; None where the check sets none.
        components: what each component grew by; those that did not are left out.
        changes: the settings that differ.
    """

    before_bytes: int
    increase_bytes: int
    allowed: Limit | None
    components: dict[str, int]
    changes: list[Change]


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the scenario that takes less: its name, the fields, the value it leads to, whether that is enough."""

    name: str
    change: dict[str, Any]
    value_bytes: int
    is_enough: bool


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One check.

    Attributes:
        status: ``warning``: within its limit, but not by more than the estimate may be off, or more than the card has.
        level: what the config says a failure or an unknown value counts as.
        severity: what it comes to; None where it passed. Only an error fails the run.
        place: the line to blame.
        value_bytes: of ``metric``; None where it cannot be known.
        floor_bytes: what the value is at least, where that is all that is known.
        low_bytes: the band's lower end, None where no evidence gives a band; ``high_bytes`` is its upper end.
        growth: None where there is no baseline for this check.
        components: bytes at the peak by component; they sum to the allocated bytes.
        reasons: why it is not simply passed, the most important first.
        hint: what to do where the value is unknown.
        warnings: what was ignored, assumed or left out of the estimate.
    """

    name: str
    status: Status
    level: Level
    severity: Severity | None
    place: Place
    device: str
    metric: Metric
    value_bytes: int | None
    floor_bytes: int | None = None
    low_bytes: int | None = None
    high_bytes: int | None = None
    limit: Limit | None = None
    growth: Growth | None = None
    components: dict[str, int] = {}
    fix: Fix | None = None
    reasons: list[str] = []
    hint: str | None = None
    warnings: list[str] = []
    settings: dict[str, Any] = {}


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """All checks of one config, in its order; ``counts`` says how many there are of each status."""

    schema_version: int = SCHEMA_VERSION
    memprof_version: str
    config: str
    baseline: str | None
    counts: dict[Status, int]
    checks: list[Outcome]

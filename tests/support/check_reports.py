"""Check reports built by hand, so that views are tested without an engine."""

from __future__ import annotations

from typing import Any

from memprof.model.check_report import (
    STATUSES,
    Change,
    CheckReport,
    Fix,
    Growth,
    Limit,
    Outcome,
    Place,
)
from memprof.units import GiB

PARTS = {"weights": 20 * GiB, "optimizer_states": 40 * GiB, "activations": 10 * GiB, "kv_cache": 0}


def make_outcome(**changes: Any) -> Outcome:
    """A check that passes; ``changes`` replace fields."""
    fields: dict[str, Any] = {
        "name": "sft-8b",
        "status": "passed",
        "level": "error",
        "severity": None,
        "place": Place(path="configs/memprof.yaml", line=7),
        "device": "h100-80gb",
        "metric": "reserved",
        "value_bytes": 70 * GiB,
        "limit": Limit(text="72 GiB", num_bytes=72 * GiB),
        "components": PARTS,
        "settings": {"model": "llama-3.1-8b"},
    }
    return Outcome(**{**fields, **changes})


def failed(**changes: Any) -> Outcome:
    """Two GiB over its limit, ten over its baseline; a change is to blame, and checkpointing would do."""
    growth = Growth(
        before_bytes=64 * GiB,
        increase_bytes=10 * GiB,
        allowed=Limit(text="2 %", num_bytes=64 * GiB // 50),
        components={"activations": 10 * GiB},
        changes=[
            Change(
                field="batch.sequence_length",
                before=2048,
                after=4096,
                place=Place(path="configs/sft, long: 100%.yaml", line=12),
            )
        ],
    )
    fields: dict[str, Any] = {
        "name": "sft-long",
        "status": "failed",
        "severity": "error",
        "place": growth.changes[0].place,
        "value_bytes": 74 * GiB,
        "growth": growth,
        "fix": Fix(
            name="full activation checkpointing", change={"checkpointing": "full"}, value_bytes=65 * GiB, is_enough=True
        ),
    }
    return make_outcome(**{**fields, **changes})


def unknown(**changes: Any) -> Outcome:
    """At least 60 GiB on a device whose context nobody measured."""
    fields: dict[str, Any] = {
        "name": "on the device",
        "status": "unknown",
        "severity": "error",
        "metric": "device",
        "value_bytes": None,
        "floor_bytes": 60 * GiB,
        "reasons": ["the CUDA context has not been measured"],
        "hint": "set metric: reserved",
    }
    return make_outcome(**{**fields, **changes})


def near(**changes: Any) -> Outcome:
    """Passed, with the limit inside the band."""
    reason = "the limit lies inside the estimate's band, 69.00 GiB to 73.00 GiB"
    fields = {"name": "near", "status": "warning", "severity": "warning", "reasons": [reason]}
    return make_outcome(**{**fields, **changes})


def make_report(*outcomes: Outcome) -> CheckReport:
    return CheckReport(
        memprof_version="0.1.0",
        config="configs/memprof.yaml",
        baseline=None,
        counts={status: sum(outcome.status == status for outcome in outcomes) for status in STATUSES},
        checks=list(outcomes),
    )


def every_kind() -> CheckReport:
    """One check of each status, and two that fail at lower levels."""
    return make_report(
        make_outcome(warnings=["context not known"]),
        near(warnings=["context not known", "sft.yaml: ignored learning_rate"]),
        failed(),
        unknown(),
        failed(name="only a warning", level="warn", severity="warning"),
        unknown(name="only a note", level="info", severity="note"),
    )

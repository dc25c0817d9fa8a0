"""What the pytest plugin says at the end of a run: each test's estimate, as text and as pytest-benchmark's JSON."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memprof import __version__
from memprof.integrations.pytest_estimates import PROPERTY
from memprof.model.check_report import STATUSES, CheckReport, Outcome
from memprof.units import gib
from memprof.views import check_text
from memprof.views.phrases import spelled
from memprof.views.terminal import PLAIN


def collect(terminal: pytest.TerminalReporter) -> list[Outcome]:
    """The outcomes that the reports carry, by the names of their tests."""
    found = [
        msgspec.json.decode(str(value), type=Outcome)
        for reports in terminal.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and _is_last_word(report)
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    return sorted(found, key=lambda outcome: outcome.name)


def show(outcomes: list[Outcome], terminal: pytest.TerminalReporter) -> None:
    """The count, a line for each estimate, and what those hold at their peak that failed."""
    terminal.section("memprof")
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in STATUSES}
    report = CheckReport(memprof_version=__version__, config="", baseline=None, counts=counts, checks=outcomes)
    terminal.write(check_text.render(report, PLAIN._replace(color=terminal.hasmarkup)))
    for outcome in outcomes:
        if outcome.status == "failed":
            terminal.write(f"\n{outcome.name} at its peak, on {outcome.device}\n{_breakdown(outcome)}")


def write(outcomes: list[Outcome], path: str) -> None:
    """A file that pytest-benchmark's tools read: each value as a benchmark of one round, in bytes instead of seconds.

    What is not known has no value and is left out, as pytest-benchmark leaves out what raised.
    """
    content = {
        "machine_info": {"memprof_version": __version__, "python_version": platform.python_version()},
        "commit_info": {},
        "benchmarks": [_benchmark(outcome) for outcome in outcomes if outcome.value_bytes is not None],
        "datetime": datetime.now(timezone.utc).isoformat(),
        "version": __version__,
    }
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=4))


def _is_last_word(report: pytest.TestReport) -> bool:
    """The call's report, or the setup's where that is all there was: each has every property until then."""
    return report.when == "call" or (report.when == "setup" and report.failed)


def _breakdown(outcome: Outcome) -> str:
    whole = max(sum(outcome.components.values()), 1)
    parts = sorted(outcome.components.items(), key=lambda part: -part[1])
    rows = [(spelled(name), size) for name, size in [*parts, ("allocated", whole)] if size]
    return "".join(f"  {name:<18}{gib(size):>13}{100 * size / whole:>5.0f} %\n" for name, size in rows)


def _benchmark(outcome: Outcome) -> dict[str, Any]:
    """Source: pytest_benchmark/stats.py, ``Metadata.as_dict`` and ``Stats.fields``."""
    value = outcome.value_bytes
    assert value is not None
    place_in_order = dict.fromkeys(("min", "max", "mean", "median", "q1", "q3", "ld15iqr", "hd15iqr", "total"), value)
    spread = dict.fromkeys(("stddev", "iqr", "iqr_outliers", "stddev_outliers"), 0)
    return {
        "group": None,
        "name": outcome.name.rpartition("::")[2],
        "fullname": outcome.name,
        "params": None,
        "param": None,
        "extra_info": {
            "unit": "bytes",
            "metric": outcome.metric,
            "device": outcome.device,
            "status": outcome.status,
            "limit_bytes": None if outcome.limit is None else outcome.limit.num_bytes,
            "at_peak_bytes": outcome.components,
            "settings": outcome.settings,
        },
        "options": {},
        "stats": {
            **place_in_order,
            **spread,
            "outliers": "0;0",
            "rounds": 1,
            "iterations": 1,
            "ops": 1 / value if value else 0,
            "data": [value],
        },
    }

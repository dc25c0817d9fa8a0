"""A CheckReport as a page: how many pass, each check beside its limit, why those that fail do, and what helps."""

from __future__ import annotations

from memprof.model.check_report import CheckReport, Outcome
from memprof.units import format_bytes
from memprof.views import check_phrases as words
from memprof.views.html import reading
from memprof.views.html.estimate import ROWS
from memprof.views.html.figures import beside
from memprof.views.html.page import Grid, Page, Row, Section
from memprof.views.html.palette import STATUS, color_of
from memprof.views.phrases import spelled

_CHECKS = 400
"""At most so many rows; the other views of a check have no limit."""
_STATUSES = {"passed": "fits", "warning": "tight", "failed": "does_not_fit", "unknown": "unknown"}


def page(report: CheckReport) -> Page:
    """The checks that did not pass each have a section of their own."""
    worst = next((status for status in ("failed", "unknown", "warning") if report.counts[status]), "passed")
    found = [outcome for outcome in report.checks if outcome.status != "passed"]
    sections = [_checks(report), *(_outcome(index, outcome) for index, outcome in enumerate(found[:ROWS]))]
    baseline = [("baseline", report.baseline)] if report.baseline is not None else []
    return Page(
        title=report.config,
        kind="check",
        answer=words.summary(report),
        status=_STATUSES[worst],
        warnings=words.notes(report)[:ROWS],
        sections=[section for section in sections if not section.is_empty],
        reading=reading.NUMBERS + reading.COMPONENTS,
        facts=[("config", report.config), *baseline, ("memprof", report.memprof_version)],
    )


def _checks(report: CheckReport) -> Section:
    """Value and limit of each check in a figure, and everything that is said of it in the table."""
    limited = [
        beside.Sides(outcome.name, outcome.limit.num_bytes, outcome.value_bytes)
        for outcome in report.checks[:ROWS]
        if outcome.value_bytes is not None and outcome.limit is not None and outcome.limit.num_bytes is not None
    ]
    rows = [
        Row(
            cells=[outcome.name, outcome.status, words.headline(outcome), outcome.device, words.place(outcome)],
            color=STATUS[_STATUSES[outcome.status]],
        )
        for outcome in report.checks[:_CHECKS]
    ]
    header = ["check", "status", "", "device", "place"]
    figure = None
    if limited:
        summary = "Each check's limit and the value that was estimated."
        figure = beside.figure(limited, summary, ("limit", "estimated"), "{right} of {left}")
    return Section(
        key="checks", title="Checks", figure=figure, grid=Grid(header=header, rows=rows).filled() if rows else None
    )


def _outcome(index: int, outcome: Outcome) -> Section:
    """What it holds by component, beside the baseline's where there is one, and what to do."""
    grown = outcome.growth.components if outcome.growth is not None else {}
    rows = [
        Row(
            cells=[spelled(name), format_bytes(size), words.signed(grown[name]) if name in grown else ""],
            color=color_of(name),
        )
        for name, size in sorted(outcome.components.items(), key=lambda part: -part[1])
        if size or name in grown
    ]
    header = ["component", "at the peak", "since the baseline"]
    return Section(
        key=f"check-{index}",
        title=f"{outcome.name}: {outcome.status}",
        text=words.headline(outcome),
        grid=Grid(header=header, rows=rows, numbers=(1, 2)).filled() if rows else None,
        notes=words.details(outcome),
    )

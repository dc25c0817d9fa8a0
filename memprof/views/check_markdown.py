"""A check report as Markdown, for a pull request: the count, a table, and details of what did not pass."""

from __future__ import annotations

from memprof.model.check_report import CheckReport, Outcome
from memprof.units import gib
from memprof.views import check_phrases as phrases
from memprof.views.markdown import escape, folded, table
from memprof.views.phrases import spelled

_SIGNS = {"passed": "✅ passed", "warning": "⚠️ warning", "failed": "❌ failed", "unknown": "❔ unknown"}


def render(report: CheckReport) -> str:
    """The whole report as GitHub-flavoured Markdown."""
    parts = [
        f"**memprof: {phrases.summary(report)}**",
        table(("Check", "Value", "Limit", "Baseline", ""), _rows(report)),
    ]
    for outcome in report.checks:
        if outcome.severity is not None:
            points = [f"- {escape(point)}" for point in (phrases.headline(outcome), *phrases.details(outcome))]
            parts.append(f"**{escape(outcome.name)}** ({escape(phrases.place(outcome))})\n\n" + "\n".join(points))
            if outcome.components:
                parts.append(folded(f"Memory of {escape(outcome.name)} at its peak", _components(outcome)))
    if notes := phrases.notes(report):
        parts.append(folded("What was ignored, assumed or left out", "\n".join(f"- {escape(note)}" for note in notes)))
    return "\n\n".join(parts) + "\n"


def _rows(report: CheckReport) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            outcome.name,
            phrases.value(outcome),
            "" if outcome.limit is None else phrases.limit(outcome.limit),
            "" if outcome.growth is None else phrases.signed(outcome.growth.increase_bytes),
            _SIGNS[outcome.status],
        )
        for outcome in report.checks
    ]


def _components(outcome: Outcome) -> str:
    grown = outcome.growth.components if outcome.growth is not None else {}
    parts = sorted(outcome.components.items(), key=lambda part: -part[1])
    shown = [(name, size) for name, size in parts if size or grown.get(name)]
    return table(
        ("Component", "Bytes", "Baseline"),
        [(spelled(name), gib(size), phrases.signed(grown[name]) if name in grown else "") for name, size in shown],
    )

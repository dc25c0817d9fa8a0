"""A check report for a terminal: the count, each check and why it did not pass, then what the figures leave out."""

from __future__ import annotations

import click

from memprof.model.check_report import CheckReport
from memprof.views import check_phrases as phrases
from memprof.views.terminal import Terminal

_COLORS = {"passed": "green", "warning": "yellow", "failed": "red", "unknown": "magenta"}


def render(report: CheckReport, terminal: Terminal) -> str:
    """The whole report; lines are not wrapped, so that they can be searched for."""

    def styled(text: str, status: str, *, bold: bool = False) -> str:
        return click.style(text, fg=_COLORS[status], bold=bold) if terminal.color else text

    worst = next((s for s in ("failed", "unknown", "warning") if report.counts[s]), "passed")
    lines = [styled(phrases.summary(report), worst, bold=True), ""]
    width = max((len(outcome.name) for outcome in report.checks), default=0)
    for outcome in report.checks:
        status = styled(outcome.status.ljust(7), outcome.status)
        lines.append(f"{status}  {outcome.name.ljust(width)}  {phrases.headline(outcome)}")
        details = phrases.details(outcome)
        if outcome.severity is not None:
            details.append(f"at {phrases.place(outcome)}")
        lines += [f"{' ' * (width + 11)}{detail}" for detail in details]
    notes = [f"note: {note}" for note in phrases.notes(report)]
    lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def concise(report: CheckReport) -> str:
    """``path:line: error: name: message`` for each check that did not pass, then the count."""
    lines = [
        f"{phrases.place(outcome)}: {outcome.severity}: {outcome.name}: {phrases.message(outcome)}"
        for outcome in report.checks
        if outcome.severity is not None
    ]
    return "\n".join([*lines, phrases.summary(report)]) + "\n"

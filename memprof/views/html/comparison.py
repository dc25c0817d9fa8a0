"""A Comparison as a page: both results' bars beside each other, then what changed, then the settings."""

from __future__ import annotations

from collections.abc import Iterator

from memprof.model.comparison import Comparison
from memprof.views import comparison_text as words
from memprof.views.html import reading
from memprof.views.html.estimate import ROWS
from memprof.views.html.figures import beside
from memprof.views.html.page import Figure, Grid, Page, Row, Section

_KEYS = {"Highest": "numbers", "Components at the peak": "components", "Phases": "phases"}
_BARS = 20


def page(comparison: Comparison) -> Page:
    """Every part in which the two differ."""
    return Page(
        title=f"{comparison.before} and {comparison.after}",
        kind="comparison",
        answer=words.answer(comparison),
        lines=[words.names_line(comparison)],
        sections=[*_pairs(comparison), *_settings(comparison)],
        reading=reading.NUMBERS + reading.COMPONENTS,
        facts=[
            ("before", f"{comparison.before} ({comparison.kinds[0]})"),
            ("after", f"{comparison.after} ({comparison.kinds[1]})"),
            ("memprof", comparison.memprof_version),
            ("command", comparison.command),
        ],
    )


def _pairs(comparison: Comparison) -> Iterator[Section]:
    for title, pairs in words.sections(comparison):
        known = [
            beside.Sides(pair.name, pair.before_bytes, pair.after_bytes)
            for pair in pairs[:_BARS]
            if pair.before_bytes is not None and pair.after_bytes is not None
        ]
        rows = [Row(cells=list(words.cells(pair))) for pair in pairs[:ROWS]]
        yield Section(
            key=_KEYS.get(title, "modules"),
            title=title,
            figure=_figure(title, known) if known else None,
            grid=Grid(header=["", "before", "after", "change"], rows=rows, numbers=(1, 2, 3)),
        )


def _figure(title: str, rows: list[beside.Sides]) -> Figure:
    return beside.figure(rows, f"{title}, before and after.", ("before", "after"), "{left} to {right}")


def _settings(comparison: Comparison) -> Iterator[Section]:
    if comparison.settings:
        rows = [Row(cells=[s.name, words.value(s.before), words.value(s.after)]) for s in comparison.settings[:ROWS]]
        yield Section(
            key="settings", title="Settings that differ", grid=Grid(header=["setting", "before", "after"], rows=rows)
        )

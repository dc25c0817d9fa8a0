"""Results in notebooks: the answer and the breakdown as a fragment of HTML, in the notebook's own colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from memprof.model.comparison import Comparison
from memprof.model.result import Result
from memprof.model.snapshot import SnapshotReport
from memprof.units import format_bytes, gib
from memprof.views import comparison_text, phrases, snapshot_text
from memprof.views.html.palette import color_of
from memprof.views.html.wording import cut

_SITES = 10
_LONGEST = 400


def render(value: Any) -> str:
    """The fragment; ``memprof report`` draws the whole report."""
    if isinstance(value, Comparison):
        return _comparison(value)
    return _snapshot(value) if isinstance(value, SnapshotReport) else _result(value)


def _result(result: Result) -> str:
    advice = phrases.advice(result)
    ways = [phrases.alternative_row(way) for way in result.alternatives]
    return _joined(
        _answer(phrases.answer(result)),
        _line(phrases.model_line(result)),
        _line(phrases.scenario_line(result)),
        _line(f"At the peak, in {phrases.peak_place(result)}"),
        _parts(result.at_peak_bytes, result.peak.allocated_bytes),
        _line(advice) if advice is not None else "",
        _folded("Other ways to run it", _table(("", "peak", "verdict"), ways)) if ways else "",
        *(_line(f"warning: {warning}") for warning in result.warnings),
    )


def _snapshot(report: SnapshotReport) -> str:
    pieces = [_answer(snapshot_text.growth_answer(report))] if report.compared_with is not None else []
    for device in report.devices:
        sites = [
            (format_bytes(site.peak_bytes), phrases.spelled(site.component), site.op, site.module, site.source)
            for site in device.holders[:_SITES]
        ]
        pieces += [
            _answer(snapshot_text.answer(report, device)),
            _parts(device.at_peak_bytes, device.peak.allocated_bytes),
            _folded("Held by", _table(("at the peak", "component", "op", "module", "source"), sites)),
            *(_line(f"warning: {warning}") for warning in device.warnings),
        ]
    return _joined(*pieces)


def _comparison(comparison: Comparison) -> str:
    tables = [
        _folded(title, _table(("", "before", "after", "change"), map(comparison_text.cells, pairs)))
        for title, pairs in comparison_text.sections(comparison)
    ]
    return _joined(_answer(comparison_text.answer(comparison)), _line(comparison_text.names_line(comparison)), *tables)


def _parts(parts: dict[str, int], whole: int) -> str:
    """A row a component, with its bar."""
    rows = []
    for name, size in sorted(parts.items(), key=lambda part: -part[1]):
        if size:
            style = f"width:{12 * size / max(whole, 1):.2f}em;background:{color_of(name)}"
            bar = f'<span style="display:inline-block;height:.8em;{style}"></span>'
            name_cell = f'<td style="text-align:left">{escape(phrases.spelled(name))}</td>'
            rows.append(f'<tr>{name_cell}<td>{gib(size)}</td><td style="text-align:left">{bar}</td></tr>')
    return f"<table>{''.join(rows)}</table>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _answer(text: str) -> str:
    return f"<p><strong>{_text(text)}</strong></p>"


def _line(text: str) -> str:
    return f"<p>{_text(text)}</p>"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _joined(*pieces: str) -> str:
    return f"<div>{''.join(pieces)}</div>"


def _text(text: str) -> str:
    return escape(cut(text, _LONGEST))

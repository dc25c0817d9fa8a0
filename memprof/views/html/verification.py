"""A Verification as a page: predicted beside measured for each engine and metric, and the runs that did not pass."""

from __future__ import annotations

from collections.abc import Iterator

from memprof.model.verification import Pair, Verification, VerifiedRun
from memprof.units import format_bytes
from memprof.views import verification_text as words
from memprof.views.html import reading
from memprof.views.html.figures import accuracy
from memprof.views.html.page import Grid, Page, Row, Section
from memprof.views.html.palette import STATUS

_MOST = 60
"""Runs in a figure, the worst of them where there are more."""
_ROWS = 400


def page(verification: Verification) -> Page:
    """A section for each engine and metric, then every run."""
    sections = [*_accuracy(verification), _runs(verification)]
    return Page(
        title="verification",
        kind="verify",
        answer=words.answer(verification),
        status="does_not_fit" if verification.num_failed else "fits",
        sections=[section for section in sections if not section.is_empty],
        reading=reading.NUMBERS,
        facts=[
            ("command", verification.command),
            ("memprof", verification.memprof_version),
            ("made", verification.created_at),
        ],
    )


def _accuracy(verification: Verification) -> Iterator[Section]:
    """The bar of a prediction spans the measurements that its tolerance allows."""
    found: dict[tuple[str, str], list[tuple[str, Pair]]] = {}
    for run in verification.runs:
        for pair in run.pairs:
            found.setdefault((pair.engine, pair.metric), []).append((run.name, pair))
    for (engine, metric), pairs in found.items():
        worst = sorted(pairs, key=lambda named: -abs(named[1].error))[:_MOST]
        drawn = [_drawn(name, pair) for name, pair in pairs if (name, pair) in worst]
        title = f"{engine}: {metric.removesuffix('_bytes').replace('_', ' ')}"
        left_out = f" The {len(drawn)} furthest off of {len(pairs)}." if len(drawn) < len(pairs) else ""
        yield Section(
            key=f"accuracy-{engine}-{metric}",
            title=title,
            text=f"Predicted and measured, and how far the tolerance reaches.{left_out}",
            figure=accuracy.figure(drawn),
        )


def _drawn(name: str, pair: Pair) -> accuracy.Pair:
    reach = None if pair.tolerance is None else round(pair.measured * pair.tolerance)
    low, high = (None, None) if reach is None else (pair.predicted - reach, pair.predicted + reach)
    return accuracy.Pair(name, pair.predicted, pair.measured, low, high)


def _runs(verification: Verification) -> Section:
    rows = [row for run in verification.runs for row in _rows(run)][:_ROWS]
    header = ["run", "device", "engine", "metric", "predicted", "measured", "error", "verdict"]
    return Section(
        key="runs", title="Runs", grid=Grid(header=header, rows=rows, numbers=(4, 5, 6)).filled() if rows else None
    )


def _rows(run: VerifiedRun) -> Iterator[Row]:
    color = STATUS["fits" if run.passes else "does_not_fit"]
    for pair in run.pairs:
        verdict = "passed" if pair.passes else f"beyond {pair.tolerance:.0%}"
        sizes = [format_bytes(pair.predicted), format_bytes(pair.measured)]
        yield Row(
            cells=[run.name, run.device, pair.engine, pair.metric, *sizes, f"{pair.error:+.3%}", verdict], color=color
        )
    said = "; ".join(filter(None, [run.message, *(f"{engine}: {why}" for engine, why in run.refused.items())]))
    if said or not run.pairs:
        ended = "out of memory, as predicted" if run.expected_oom else run.status
        yield Row(cells=[run.name, run.device, "", "", "", "", "", f"{ended}; {said}" if said else ended], color=color)

"""How a replay's statistics are said; shared by its views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from memprof.model.accuracy import ALL, Accuracy, Loosened, Row
from memprof.views.phrases import spelled

HEADER = ("", "", "runs", "median", "95 %", "worst", "too low", "refused")
NUMBERS = (2, 3, 4, 5, 6, 7)


def answer(accuracy: Accuracy) -> str:
    """``112 recorded runs; predicted by memprof 0.1.0``: what was replayed."""
    parts = [f"{accuracy.num_records} recorded runs"]
    if accuracy.num_unmeasured:
        parts.append(f"{accuracy.num_unmeasured} of them without a figure of memory")
    return ", ".join(parts) + f"; predicted by memprof {accuracy.memprof_version}"


def sections(accuracy: Accuracy) -> Iterable[tuple[str, list[Row]]]:
    """(title, rows) for each engine, metric and part; where nothing was answered, the row over all runs says so."""
    found: dict[str, list[Row]] = {}
    for row in accuracy.rows:
        part = "" if row.part == "peak" else f", {spelled(row.part)}"
        found.setdefault(f"{row.engine}: {row.metric} bytes{part}", []).append(row)
    return [(title, rows if rows[0].num_runs else rows[:1]) for title, rows in found.items()]


def cells(row: Row) -> tuple[str, ...]:
    """A row under ``HEADER``; a dash where no run was answered."""
    named = ("all runs", "") if row.setting == ALL else (row.setting, row.value)
    counted = f"{row.num_runs} ({row.num_families})" if row.num_runs != row.num_families else str(row.num_runs)
    sizes = (_percent(row.median), _percent(row.p95), _percent(row.worst, sign="+"))
    return (*named, counted, *sizes, _percent(row.under, digits=0), _percent(row.refused, digits=0))


def refusals(accuracy: Accuracy) -> list[tuple[str, str, str]]:
    """(engine, reason, how many runs) of each figure that has no prediction, the most frequent first."""
    runs = {(score.engine, score.refused, score.run) for score in accuracy.scores if score.refused}
    counted = Counter((engine, refused) for engine, refused, _ in runs)
    ordered = sorted(counted.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    return [(engine, refused, str(count)) for (engine, refused), count in ordered]


def loosened(loose: Loosened) -> str:
    """``analytic reserved peak, precision fp32: median 0.31 %, was 0.28 %``."""
    of = "all runs" if loose.setting == ALL else f"{loose.setting} {loose.value}"
    figures = f"{_percent(loose.now)}, was {_percent(loose.was)}"
    return f"{loose.engine} {loose.metric} {loose.part}, {of}: {loose.statistic} {figures}"


NOTE = "Errors are shares of what was measured; below zero is too little. In parentheses: independent families of runs."


def _percent(share: float | None, *, sign: str = "", digits: int = 2) -> str:
    return "-" if share is None else f"{100 * share:{sign}.{digits}f} %"

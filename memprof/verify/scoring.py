"""Statistics of scores, and whether one set of them is worse than another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from statistics import median

from memprof.model.accuracy import ALL, Loosened, Row, Run, Score

TOLERANCE = 0.0001
"""A statistic is worse when it is so by more than a hundredth of a percent of what was measured."""
_DIGITS = 6
_STATISTICS = ("median", "p95", "worst", "refused")

Group = tuple[str, str, str, str, str]


def rows(scores: Iterable[Score], runs: Mapping[str, Run]) -> list[Row]:
    """Statistics of all scores, and of those whose runs share a setting."""
    grouped: dict[Group, list[Score]] = defaultdict(list)
    for score in scores:
        for setting, value in ((ALL, ALL), *runs[score.run].settings.items()):
            grouped[score.engine, score.metric, score.part, setting, value].append(score)
    order = {ALL: 0}
    for run in runs.values():
        for setting in run.settings:
            order.setdefault(setting, len(order))
    keys = sorted(grouped, key=lambda key: (*key[:2], key[2] != "peak", key[2], order[key[3]], key[4]))
    return [_row(key, grouped[key], runs) for key in keys]


def worse(before: Iterable[Row], after: Iterable[Row]) -> list[Loosened]:
    """Each statistic of ``before`` that is worse in ``after``; both have to be of the same runs."""
    now = {_group(row): row for row in after}
    found = []
    for old in before:
        new = now.get(_group(old))
        for statistic in _STATISTICS if new is not None else ():
            was, value = (getattr(row, statistic) for row in (old, new))
            if was is not None and value is not None and abs(value) > abs(was) + TOLERANCE:
                names = dict(zip(("engine", "metric", "part", "setting", "value"), _group(old), strict=True))
                found.append(Loosened(**names, statistic=statistic, was=was, now=value, reason=""))
    return found


def common(first: Iterable[Score], second: Iterable[Score]) -> tuple[list[Score], list[Score]]:
    """The scores of both that are of the same figure."""
    ours, theirs = ({_figure(score): score for score in scores} for scores in (first, second))
    keys = [key for key in ours if key in theirs]
    return [ours[key] for key in keys], [theirs[key] for key in keys]


def _row(key: Group, scores: Sequence[Score], runs: Mapping[str, Run]) -> Row:
    answered = {score.run: score.error for score in scores if score.error is not None}
    names = dict(zip(("engine", "metric", "part", "setting", "value"), key, strict=True))
    refused = round(1 - len(answered) / len(scores), _DIGITS)
    if not answered:
        return Row(
            **names, num_runs=0, num_families=0, median=None, p95=None, worst=None, worst_run="", under=None,
            refused=refused,
        )  # fmt: skip
    by_size = sorted(answered, key=lambda run: abs(answered[run]))
    sizes = [abs(answered[run]) for run in by_size]
    return Row(
        **names,
        num_runs=len(answered),
        num_families=len({runs[run].family for run in answered}),
        median=round(median(sizes), _DIGITS),
        p95=round(sizes[ceil(0.95 * len(sizes)) - 1], _DIGITS),
        worst=round(answered[by_size[-1]], _DIGITS),
        worst_run=by_size[-1],
        under=round(sum(error < 0 for error in answered.values()) / len(answered), _DIGITS),
        refused=refused,
    )


def _group(row: Row) -> Group:
    return row.engine, row.metric, row.part, row.setting, row.value


def _figure(score: Score) -> tuple[str, str, str, str]:
    return score.run, score.engine, score.metric, score.part

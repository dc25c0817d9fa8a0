"""A verification on a screen: the answer, then predicted, measured and error of each run."""

from __future__ import annotations

from collections.abc import Iterator

from memprof.model.verification import Pair, Verification, VerifiedRun
from memprof.units import format_bytes
from memprof.views import table
from memprof.views.terminal import Terminal

_HEADER = ("run", "engine", "metric", "predicted", "measured", "error", "")


def answer(verification: Verification) -> str:
    """The first line: how many runs passed, and the highest error of each engine."""
    total, failed = len(verification.runs), verification.num_failed
    worst: dict[str, float] = {}
    for run in verification.runs:
        for pair in run.pairs:
            worst[pair.engine] = max(worst.get(pair.engine, 0.0), abs(pair.error))
    errors = ", ".join(f"{engine} within {error:.2%}" for engine, error in worst.items())
    verdict = "all passed" if not failed else f"{total - failed} passed, {failed} failed"
    return f"{total} run{'s' * (total != 1)}: {verdict}{f'; {errors}' if errors else ''}"


def render(verification: Verification, terminal: Terminal) -> str:
    """The answer, a table of all pairs, and what was refused or failed."""
    rows = [row for run in verification.runs for row in _rows(run)]
    notes = [f"{run.name}: {note}" for run in verification.runs for note in _notes(run)]
    text = f"{answer(verification)}\n\n{table.render(_HEADER, rows, terminal, numbers=(3, 4, 5))}"
    return text + ("\n" + "\n".join(notes) + "\n" if notes else "")


def _rows(run: VerifiedRun) -> Iterator[tuple[str, ...]]:
    if not run.pairs:
        yield run.name, "", "", "", "", "", _ended(run)
    for number, pair in enumerate(run.pairs):
        yield (
            run.name if number == 0 else "",
            pair.engine,
            pair.metric.removeprefix("peak_").removesuffix("_bytes"),
            format_bytes(pair.predicted),
            format_bytes(pair.measured),
            f"{pair.error:+.3%}",
            _verdict(pair),
        )


def _ended(run: VerifiedRun) -> str:
    if run.expected_oom:
        return "as predicted: does not fit"
    return "recorded; no engine predicts it yet" if run.passes else run.status


def _verdict(pair: Pair) -> str:
    return "" if pair.passes else f"beyond {pair.tolerance:.0%}"


def _notes(run: VerifiedRun) -> Iterator[str]:
    if run.status != "ok" and run.message:
        yield f"{run.status}: {run.message}"
    if not run.passes:
        yield from (f"{engine} said nothing: {why}" for engine, why in run.refused.items())

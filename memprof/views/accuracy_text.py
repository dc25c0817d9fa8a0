"""A replay for people: how far off each engine is, by setting, and what it refused."""

from __future__ import annotations

from memprof.model.accuracy import Accuracy
from memprof.views import table
from memprof.views.accuracy_rows import HEADER, NOTE, NUMBERS, answer, cells, loosened, refusals, sections
from memprof.views.terminal import Terminal


def render(accuracy: Accuracy, terminal: Terminal) -> str:
    """The whole answer as text."""
    parts = [f"{answer(accuracy)}\n{NOTE}\n"]
    if accuracy.worse:
        parts.append("".join(f"{line}\n" for line in ("Worse than the summary", *map(loosened, accuracy.worse))))
    for title, rows in sections(accuracy):
        parts.append(f"{title}\n{table.render(HEADER, map(cells, rows), terminal, numbers=NUMBERS)}")
    refused = refusals(accuracy)
    if refused:
        drawn = table.render(("engine", "why", "runs"), refused, terminal, numbers=(2,))
        parts.append(f"Runs without a prediction\n{drawn}")
    return "\n".join(parts)

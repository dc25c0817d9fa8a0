"""What became of a file of runs, for people."""

from __future__ import annotations

from memprof.model.accuracy import Imported
from memprof.views import table
from memprof.views.terminal import Terminal


def render(imported: Imported, terminal: Terminal) -> str:
    """How many were added, and each that was not, with the reason."""
    text = f"{answer(imported)}\n"
    if imported.left_out:
        rows = [(left.name, left.reason) for left in imported.left_out]
        text += "\n" + table.render(("left out", "why"), rows, terminal, numbers=())
    return text


def answer(imported: Imported) -> str:
    """``36 runs are in the store, 16 left out``."""
    return f"{len(imported.added)} runs are in the store, {len(imported.left_out)} left out"

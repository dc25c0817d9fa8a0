"""What became of a file of runs, as Markdown."""

from __future__ import annotations

from memprof.model.accuracy import Imported
from memprof.views.imported_text import answer
from memprof.views.markdown import escape


def render(imported: Imported) -> str:
    """How many were added, and each that was not, with the reason."""
    lines = ["| Run | Why it is left out |", "| --- | --- |"]
    lines += [f"| {escape(left.name)} | {escape(left.reason)} |" for left in imported.left_out]
    return "\n".join([f"**{answer(imported)}**", "", *(lines if imported.left_out else [])]) + "\n"

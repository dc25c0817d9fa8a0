"""A replay as Markdown: the rows over all runs, the rest folded away."""

from __future__ import annotations

from memprof.model.accuracy import ALL, Accuracy
from memprof.views.accuracy_rows import HEADER, NOTE, answer, cells, loosened, refusals, sections
from memprof.views.markdown import escape, folded, table


def render(accuracy: Accuracy) -> str:
    """The whole answer as GitHub-flavoured Markdown."""
    whole = [(title, row) for title, rows in sections(accuracy) for row in rows if row.setting == ALL]
    parts = [
        f"**{escape(answer(accuracy))}**",
        table(("", *HEADER[2:]), [(title, *cells(row)[2:]) for title, row in whole]),
        escape(NOTE),
    ]
    if accuracy.worse:
        parts.append(
            "\n".join(["**Worse than the summary**\n", *(f"- {escape(loosened(each))}" for each in accuracy.worse)])
        )
    parts += [folded(escape(title), table(HEADER, map(cells, rows))) for title, rows in sections(accuracy)]
    refused = refusals(accuracy)
    if refused:
        parts.append(folded("Runs without a prediction", table(("Engine", "Why", "Runs"), refused)))
    return "\n\n".join(parts) + "\n"

"""A comparison as Markdown: the answer, the numbers, the rest folded away."""

from __future__ import annotations

from memprof.model.comparison import Comparison
from memprof.views import comparison_text as words
from memprof.views.markdown import escape, folded, table

_SHOWN = 30


def render(comparison: Comparison) -> str:
    """The comparison as GitHub-flavoured Markdown."""
    parts = [f"**{escape(words.answer(comparison))}**", escape(words.names_line(comparison))]
    for title, pairs in words.sections(comparison):
        body = table((title, "before", "after", "change"), [words.cells(pair) for pair in pairs[:_SHOWN]])
        parts.append(body if title == "Highest" else folded(title, body))
    if comparison.settings:
        rows = [
            (setting.name, words.value(setting.before), words.value(setting.after)) for setting in comparison.settings
        ]
        parts.append(folded("Settings that differ", table(("Setting", "before", "after"), rows)))
    return "\n\n".join(parts) + "\n"

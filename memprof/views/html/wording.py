"""Text for reports: cut to a length, and made safe for figures."""

from __future__ import annotations

from html import escape

LABEL = 48
"""Characters of a label inside a figure."""
PARAGRAPH = 20_000
"""Characters of any text in a page; the scenario's file has the rest."""


def cut(text: str, most: int = PARAGRAPH) -> str:
    """The text, or its beginning and its end with an ellipsis between them."""
    if len(text) <= most:
        return text
    head = (most - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def label(text: str, most: int = LABEL) -> str:
    """Text as a figure shows it: one line, cut, and no markup, which Plotly would obey (``<b>``, ``<a href>``)."""
    return escape(cut(" ".join(text.split()), most), quote=False)

"""Pairs of bars: each quantity before and after, or its limit and its value."""

from __future__ import annotations

from typing import NamedTuple

from memprof.units import format_bytes
from memprof.views.html.figures.axes import MUTED, byte_axis, layout, names_above, rows_axis, unit_of
from memprof.views.html.page import Figure, Swatch
from memprof.views.html.wording import label

_RIGHT = "#0072b2"
_ROW_HEIGHT = 58


class Sides(NamedTuple):
    """A quantity's two values in bytes."""

    name: str
    left: int
    right: int


def figure(rows: list[Sides], summary: str, names: tuple[str, str], sentence: str) -> Figure:
    """One row a quantity, its values below each other; ``sentence`` is filled with both, as ``{left} to {right}``."""
    unit, size = unit_of(max(max(row.left, row.right) for row in rows))
    texts = [
        f"{label(row.name, 30)}: {sentence.format(left=format_bytes(row.left), right=format_bytes(row.right))}"
        for row in rows
    ]
    sides = (([row.left for row in rows], MUTED, -0.06), ([row.right for row in rows], _RIGHT, 0.18))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "y": [row + shift for row in range(len(rows))],
            "x": [num_bytes / size for num_bytes in side],
            "width": 0.22,
            "marker": {"color": color},
            "hovertext": texts,
            "hoverinfo": "text",
        }
        for side, color, shift in sides
    ]
    return Figure(
        data=data,
        layout=layout(
            xaxis=byte_axis(unit, nticks=5),
            yaxis=rows_axis(len(rows)),
            annotations=names_above(texts),
            barmode="overlay",
        ),
        summary=summary,
        height=60 + _ROW_HEIGHT * len(rows),
        legend=[Swatch(names[0], MUTED), Swatch(names[1], _RIGHT)],
    )

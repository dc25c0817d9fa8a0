"""Pairs of bars: each quantity before and after."""

from __future__ import annotations

from memprof.model.comparison import Pair
from memprof.units import format_bytes
from memprof.views.html.figures.axes import MUTED, byte_axis, layout, names_above, rows_axis, unit_of
from memprof.views.html.page import Figure, Swatch
from memprof.views.html.wording import label

_AFTER = "#0072b2"
_ROW_HEIGHT = 58


def figure(pairs: list[Pair], summary: str) -> Figure:
    """One row a pair; both sides must be known."""
    sides = [[pair.before_bytes or 0 for pair in pairs], [pair.after_bytes or 0 for pair in pairs]]
    unit, size = unit_of(max(max(side) for side in sides))
    texts = [
        f"{label(pair.name, 30)}: {format_bytes(before)} to {format_bytes(after)}"
        for pair, before, after in zip(pairs, *sides, strict=True)
    ]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [row + shift for row in range(len(pairs))],
            "x": [num_bytes / size for num_bytes in side],
            "width": 0.22,
            "marker": {"color": color},
            "hovertext": texts,
            "hoverinfo": "text",
        }
        for name, side, color, shift in (("before", sides[0], MUTED, -0.06), ("after", sides[1], _AFTER, 0.18))
    ]
    return Figure(
        data=data,
        layout=layout(
            xaxis=byte_axis(unit, nticks=5),
            yaxis=rows_axis(len(pairs)),
            annotations=names_above(texts),
            barmode="overlay",
        ),
        summary=summary,
        height=60 + _ROW_HEIGHT * len(pairs),
        legend=[Swatch("before", MUTED), Swatch("after", _AFTER)],
    )

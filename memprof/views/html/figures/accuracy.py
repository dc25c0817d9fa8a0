"""Predicted beside measured: a dot for what was measured, a diamond with its band for what was predicted."""

from __future__ import annotations

from typing import NamedTuple

from memprof.units import format_bytes
from memprof.views.html.figures.axes import INK, byte_axis, layout, names_above, rows_axis, unit_of
from memprof.views.html.page import Figure, Swatch
from memprof.views.html.wording import label

_ROW_HEIGHT = 50
_PREDICTED = "#0072b2"


class Pair(NamedTuple):
    """One scenario's bytes; ``low`` and ``high`` are the ends of the predicted band, None where it has none."""

    name: str
    predicted: int
    measured: int
    low: int | None = None
    high: int | None = None


def figure(pairs: list[Pair]) -> Figure:
    """One row a scenario, the first on top."""
    unit, size = unit_of(max(max(pair.predicted, pair.measured, pair.high or 0) for pair in pairs))
    rows = list(range(len(pairs)))
    texts = [
        f"{label(p.name, 40)}: {format_bytes(p.predicted)} of {format_bytes(p.measured)}, {error(p)}" for p in pairs
    ]
    band = {
        "type": "data",
        "symmetric": False,
        "array": [((pair.high or pair.predicted) - pair.predicted) / size for pair in pairs],
        "arrayminus": [(pair.predicted - (pair.low or pair.predicted)) / size for pair in pairs],
        "color": _PREDICTED,
        "thickness": 2,
    }
    common = {"type": "scatter", "mode": "markers", "y": rows, "hovertext": texts, "hoverinfo": "text"}
    measured = {
        **common,
        "x": [pair.measured / size for pair in pairs],
        "marker": {"symbol": "line-ns-open", "size": 16, "color": INK, "line": {"width": 3, "color": INK}},
    }
    predicted = {
        **common,
        "x": [pair.predicted / size for pair in pairs],
        "error_x": band,
        "marker": {"symbol": "diamond", "size": 10, "color": _PREDICTED},
    }
    worst = max(pairs, key=lambda pair: abs(pair.predicted - pair.measured) / max(pair.measured, 1))
    return Figure(
        data=[measured, predicted],
        layout=layout(xaxis=byte_axis(unit), yaxis=rows_axis(len(pairs)), annotations=names_above(texts)),
        summary=f"Predicted and measured bytes of {len(pairs)} scenarios; the worst is {worst.name}, {error(worst)}.",
        height=60 + _ROW_HEIGHT * len(pairs),
        legend=[Swatch("predicted, with its band", _PREDICTED), Swatch("measured", INK)],
    )


def error(pair: Pair) -> str:
    """``+0.31 %``: how far the prediction is above what was measured."""
    return f"{100 * (pair.predicted - pair.measured) / max(pair.measured, 1):+.2f} %"

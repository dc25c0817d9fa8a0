"""What is alive over the step: stacked areas by component, phases marked, the peak named, the device as a line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from memprof.units import gib
from memprof.views.html.figures.axes import BAND, INK, MUTED, PAPER, byte_axis, capacity_line, layout, unit_of
from memprof.views.html.page import Button, Figure, Swatch
from memprof.views.html.palette import color_of
from memprof.views.html.wording import label
from memprof.views.phrases import spelled

_TALLEST = 5
"""A device that could hold the peak this many times is left out of the picture, which would be flat."""
_HEADROOM = 1.28
"""How far the picture reaches above the peak, for its label."""


class Moments(NamedTuple):
    """Samples in order; each list has one entry a sample, sizes in bytes.

    ``stages`` and ``phases`` name what went on, ``places`` say it in full. ``parts`` are stacked, ``lines`` are not.
    """

    stages: list[str]
    phases: list[str]
    places: list[str]
    total: list[int]
    parts: dict[str, list[int]]
    lines: dict[str, list[int]] = {}  # noqa: RUF012 - never written to


def thinned(rows: list[list[Any]], column: int, most: int) -> list[list[Any]]:
    """At most ``most`` rows: of each stretch the one whose ``column`` is highest, the first of those."""
    stride = max(-(-len(rows) // most), 1)
    if stride == 1:
        return rows
    return [max(rows[start : start + stride], key=itemgetter(column)) for start in range(0, len(rows), stride)]


def figure(moments: Moments, *, peak_text: str, capacity: tuple[str, int] | None) -> Figure:
    """The picture; the highest sample (the first of them) carries ``peak_text``."""
    peak = max(moments.total)
    at = moments.total.index(peak)
    highest = max([peak, *(max(levels) for levels in moments.lines.values()), 1])
    shown = capacity if capacity is not None and capacity[1] <= _TALLEST * highest else None
    unit, size = unit_of(highest)
    top = max(highest * _HEADROOM, shown[1] * 1.06 if shown else 0) / size
    bands = _bands(moments)
    x = list(range(len(moments.total)))
    data = [*_areas(moments, x, unit, size), *_lines(moments, x, unit, size)]
    data.append(_marker(at, peak / size))
    shapes = [_band(start, end) for number, (start, end, _) in enumerate(bands) if number % 2]
    notes = [_peak_note(at, peak / size, peak_text)]
    if shown is not None:
        shape, note = capacity_line(shown[1] / size, f"{label(shown[0])}: {gib(shown[1])}", vertical=False)
        shapes.append(shape)
        notes.append(note)
    stages = _runs(moments.stages)
    legend = [Swatch(spelled(name), color_of(name)) for name in moments.parts]
    if len(moments.parts) > 1 or moments.lines:
        legend.append(Swatch("all together", INK))
    legend += [Swatch(spelled(name), MUTED) for name in moments.lines]
    return Figure(
        data=data,
        layout=layout(
            margin={"l": 8, "r": 12, "t": 24, "b": 8},
            hovermode="x unified",
            shapes=shapes,
            annotations=notes,
            xaxis={
                "range": [0, max(len(x) - 1, 1)],
                "tickvals": [(start + end) / 2 for start, end, _ in stages],
                "ticktext": [label(spelled(name)) for *_, name in stages],
                "ticks": "",
                "showgrid": False,
                "zeroline": False,
                "automargin": True,
            },
            yaxis=byte_axis(unit, range=[0, top]),
        ),
        summary=f"Memory over the step by component; {peak_text}.",
        height=420,
        legend=legend,
        buttons=_buttons(stages, len(x)),
        bands=bands,
    )


def _areas(moments: Moments, x: list[int], unit: str, size: int) -> list[dict[str, Any]]:
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "stackgroup": "alive",
            "name": spelled(name),
            "x": x,
            "y": [value / size for value in levels],
            "line": {"width": 0.5, "color": PAPER, "shape": "hvh"},
            "fillcolor": color_of(name),
            "hovertemplate": f"%{{y:.2f}} {unit}",
        }
        for name, levels in moments.parts.items()
    ]


def _lines(moments: Moments, x: list[int], unit: str, size: int) -> list[dict[str, Any]]:
    """Whatever is not stacked: all together, which also says where one is, and further levels."""
    lines = {"all together": (moments.total, INK)}
    lines |= {spelled(name): (levels, MUTED) for name, levels in moments.lines.items()}
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": x,
            "y": [value / size for value in levels],
            "line": {"width": 1.5, "color": color, "shape": "hvh"},
            "text": [label(place) for place in moments.places] if name == "all together" else None,
            "hovertemplate": f"%{{y:.2f}} {unit}" + (" in %{text}" if name == "all together" else ""),
        }
        for name, (levels, color) in lines.items()
    ]


def _marker(x: int, y: float) -> dict[str, Any]:
    point = {"size": 9, "color": PAPER, "line": {"color": INK, "width": 2}}
    return {"type": "scatter", "mode": "markers", "x": [x], "y": [y], "marker": point, "hoverinfo": "skip"}


def _peak_note(x: int, y: float, text: str) -> dict[str, Any]:
    """The peak's name above it: bytes, and below them the place. The page's script keeps it within the picture."""
    num_bytes, _, place = text.partition(" in ")
    return {
        "name": "peak",
        "text": f"<b>{label(num_bytes)}</b><br>{label(place, 36)}" if place else label(num_bytes),
        "align": "left",
        "x": x,
        "y": y,
        "ax": 0,
        "ay": -24,
        "yanchor": "bottom",
        "arrowcolor": INK,
        "arrowwidth": 1,
        "standoff": 5,
        "bgcolor": PAPER,
        "bordercolor": INK,
        "borderpad": 4,
        "font": {"size": 12, "color": INK},
    }


def _runs(names: Sequence[Any]) -> list[tuple[float, float, Any]]:
    """(first, last, name) of each stretch of equal names, half a sample wider to each side."""
    runs = []
    start = 0
    for name, same in groupby(names):
        end = start + len(list(same))
        runs.append((start - 0.5, end - 0.5, name))
        start = end
    return runs


def _bands(moments: Moments) -> list[tuple[float, float, str]]:
    joined = list(zip(moments.stages, moments.phases, strict=True))
    return [(start, end, label(spelled(phase))) for start, end, (_, phase) in _runs(joined)]


def _band(start: float, end: float) -> dict[str, Any]:
    ends = {"x0": start, "x1": end, "y0": 0, "y1": 1, "yref": "paper"}
    return {"type": "rect", "fillcolor": BAND, "line": {"width": 0}, "layer": "below", **ends}


def _buttons(stages: list[tuple[float, float, str]], count: int) -> list[Button]:
    if len(stages) < 2:
        return []
    whole = Button("whole run", relayout={"xaxis.range": [0, max(count - 1, 1)]})
    return [whole, *(Button(spelled(name), relayout={"xaxis.range": [start, end]}) for start, end, name in stages)]

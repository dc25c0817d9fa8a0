"""Horizontal bars of bytes: the bridge from allocated to device, other ways to run the model, sites."""

from __future__ import annotations

from typing import Any, NamedTuple

from memprof.units import format_bytes, gib
from memprof.views.html.figures.axes import MUTED, byte_axis, capacity_line, layout, names_above, rows_axis, unit_of
from memprof.views.html.page import Figure, Swatch
from memprof.views.html.palette import STATUS, UNNAMED, color_of
from memprof.views.html.wording import label
from memprof.views.phrases import spelled

_BAR_HEIGHT = 50


class Step(NamedTuple):
    """One bar of a bridge: a sum that has been reached, or a part that is added to the one before."""

    name: str
    num_bytes: int
    is_sum: bool


class Way(NamedTuple):
    """A way to run the model, its bytes, the status that colours it, and the verdict in words."""

    name: str
    num_bytes: int
    status: str
    verdict: str


def bridge(steps: list[Step], capacity: tuple[str, int] | None, summary: str) -> Figure:
    """A waterfall: each part begins where the sum so far ends."""
    ends: list[int] = []
    for step in steps:
        ends.append(step.num_bytes if step.is_sum else ends[-1] + step.num_bytes)
    unit, size = unit_of(max(*ends, 1))
    starts = [0 if step.is_sum else end - step.num_bytes for step, end in zip(steps, ends, strict=True)]
    colors = [MUTED if step.is_sum else color_of(step.name.replace(" ", "_")) for step in steps]
    texts = [
        f"{label(step.name)} {gib(step.num_bytes) if step.is_sum else f'+ {format_bytes(step.num_bytes)}'}"
        for step in steps
    ]
    bars = _bars(texts, [step.num_bytes / size for step in steps], colors, [start / size for start in starts])
    legend = [Swatch("sum", MUTED)]
    legend += [Swatch(step.name, color) for step, color in zip(steps, colors, strict=True) if not step.is_sum]
    return _figure(bars, texts, max(*ends, 1) / size, unit, size, capacity, summary, legend)


def ways(rows: list[Way], capacity: tuple[str, int] | None, summary: str) -> Figure:
    """One bar a way, coloured by its verdict; the dashed line is where the device ends."""
    most = max(1, *(row.num_bytes for row in rows))
    unit, size = unit_of(most)
    texts = [f"{label(row.name, 40)}: {gib(row.num_bytes)}, {row.verdict}" for row in rows]
    colors = [STATUS.get(row.status, UNNAMED) for row in rows]
    bars = _bars(texts, [row.num_bytes / size for row in rows], colors)
    legend = [
        Swatch(verdict, color)
        for verdict, color in {row.verdict: color for row, color in zip(rows, colors, strict=True)}.items()
    ]
    return _figure(bars, texts, most / size, unit, size, capacity, summary, legend)


def _bars(
    texts: list[str], lengths: list[float], colors: list[str], starts: list[float] | None = None
) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(texts))),
        "x": lengths,
        "base": starts,
        "width": 0.4,
        "marker": {"color": colors},
        "hovertext": texts,
        "hoverinfo": "text",
    }


def _figure(
    bars: dict[str, Any],
    texts: list[str],
    most: float,
    unit: str,
    size: int,
    capacity: tuple[str, int] | None,
    summary: str,
    legend: list[Swatch],
) -> Figure:
    """Bars, each with its text above it, and the device's line where it is within reach."""
    notes = names_above(texts)
    shapes = []
    reach = most * 1.05
    if capacity is not None and capacity[1] / size <= most * 4:
        at = capacity[1] / size
        reach = max(reach, at * 1.05)
        shape, note = capacity_line(at, f"{label(capacity[0])}: {gib(capacity[1])}", vertical=True)
        shapes.append(shape)
        notes.append({**note, "xanchor": "right" if at > reach / 2 else "left"})
    return Figure(
        data=[bars],
        layout=layout(
            xaxis=byte_axis(unit, range=[0, reach], nticks=5),
            yaxis=rows_axis(len(texts)),
            shapes=shapes,
            annotations=notes,
        ),
        summary=summary,
        height=60 + _BAR_HEIGHT * len(texts),
        legend=legend,
    )


def steps_of(parts: dict[str, int | None]) -> list[Step]:
    """The known parts of a sum as steps."""
    return [Step(spelled(name), size, False) for name, size in parts.items() if size]

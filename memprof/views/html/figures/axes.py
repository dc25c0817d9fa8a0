"""What all figures share: colours by CSS variable, margins, an axis of bytes."""

from __future__ import annotations

from typing import Any

from memprof.units import GiB, KiB, MiB

INK, MUTED, GRID, PAPER, BAND, ACCENT = "@ink", "@muted", "@line", "@paper", "@band", "@alarm"


def unit_of(most: int) -> tuple[str, int]:
    """The unit of an axis that reaches ``most`` bytes: (name, bytes). Dividing by it is exact in floating point."""
    return next(((n, f) for n, f in (("GiB", GiB), ("MiB", MiB), ("KiB", KiB)) if most >= f), ("B", 1))


def layout(**changes: Any) -> dict[str, Any]:
    """A bare layout, its colours those of the page; ``changes`` are added."""
    base: dict[str, Any] = {
        "margin": {"l": 8, "r": 12, "t": 28, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "family": "system-ui, sans-serif", "size": 13},
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": GRID, "font": {"color": INK}, "align": "left"},
        "showlegend": False,
        "dragmode": False,
    }
    return {**base, **changes}


def byte_axis(unit: str, **changes: Any) -> dict[str, Any]:
    """An axis in ``unit`` from zero."""
    base: dict[str, Any] = {
        "ticksuffix": f" {unit}",
        "gridcolor": GRID,
        "zerolinecolor": GRID,
        "automargin": True,
        "rangemode": "tozero",
        "fixedrange": True,
    }
    return {**base, **changes}


def rows_axis(count: int) -> dict[str, Any]:
    """The vertical axis of rows 0, 1, ... from the top down; ``names_above`` says what they are."""
    return {"range": [count - 0.5, -0.8], "visible": False, "fixedrange": True}


def names_above(texts: list[str]) -> list[dict[str, Any]]:
    """Each row's text above it, from the left: it has the whole width, however narrow the page is."""
    place = {"x": 0, "xref": "paper", "xanchor": "left", "yanchor": "bottom", "align": "left"}
    look = {"showarrow": False, "bgcolor": PAPER, "borderpad": 1}
    return [{"text": text, "y": row - 0.22, **place, **look} for row, text in enumerate(texts)]


def capacity_line(value: float, text: str, *, vertical: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """(shape, annotation) of the place where the device ends."""
    near, far = ("x", "y") if vertical else ("y", "x")
    line = {"color": ACCENT, "width": 2, "dash": "dash"}
    ends = {f"{near}0": value, f"{near}1": value, f"{far}0": 0, f"{far}1": 1, f"{far}ref": "paper"}
    shape = {"type": "line", "line": line, "layer": "above", **ends}
    look = {"showarrow": False, "font": {"color": ACCENT, "size": 12}, "bgcolor": PAPER, "borderpad": 1}
    note: dict[str, Any] = {"text": text, **look}
    if vertical:
        return shape, {**note, "x": value, "y": 1, "yref": "paper", "yanchor": "bottom"}
    return shape, {**note, "x": 0, "xref": "paper", "y": value, "xanchor": "left", "yanchor": "bottom"}

"""What a report is made of: pages of sections, each with text, a figure and a table."""

from __future__ import annotations

from typing import Any

import msgspec


class Swatch(msgspec.Struct, frozen=True):
    """A row of a legend: its text, the colour (CSS, or ``@variable``), and a figure beside it where there is one."""

    text: str
    color: str
    value: str = ""
    share: float = 0.0


class Button(msgspec.Struct, frozen=True):
    """A way to zoom by keyboard: the change of the layout (``relayout``), or the box to open (``level``)."""

    text: str
    relayout: dict[str, Any] | None = None
    level: str | None = None


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A Plotly figure. ``summary`` says in words what is seen; ``bands`` are (start, end, text) along x."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]
    summary: str
    height: int = 360
    legend: list[Swatch] = []
    buttons: list[Button] = []
    bands: list[tuple[float, float, str]] = []


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Cells of a table; ``depth`` indents the first, ``level`` makes it open a box of the figure above."""

    cells: list[str]
    depth: int = 0
    level: str | None = None
    color: str | None = None


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """A table; the columns in ``numbers`` are set to the right."""

    header: list[str]
    rows: list[Row]
    numbers: tuple[int, ...] = ()

    def filled(self) -> Grid:
        """The same without the columns that no row fills."""
        kept = [index for index in range(len(self.header)) if any(row.cells[index] for row in self.rows)]
        rows = [msgspec.structs.replace(row, cells=[row.cells[index] for index in kept]) for row in self.rows]
        numbers = tuple(place for place, index in enumerate(kept) if index in self.numbers)
        return msgspec.structs.replace(self, header=[self.header[index] for index in kept], rows=rows, numbers=numbers)


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """``key`` is its anchor; sections without figure, table and notes are left out."""

    key: str
    title: str
    text: str = ""
    figure: Figure | None = None
    grid: Grid | None = None
    notes: list[str] = []

    @property
    def is_empty(self) -> bool:
        return not (self.figure or self.grid or self.notes)


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One value's report.

    Attributes:
        title: what it is about (a model, a file), and ``kind`` what it is (``estimate``, ``snapshot``).
        answer: the first line; ``status`` colours it.
        lines: what was asked, below the answer; ``advice`` is what to do.
        meter: parts of the bar beneath, each with its share of the bar's length; ``mark`` is where the device ends.
        facts: (name, value) of *How it was made*; ``source`` is what was asked in full.
    """

    title: str
    kind: str
    answer: str
    status: str = "unknown"
    lines: list[str] = []
    advice: str | None = None
    meter: list[Swatch] = []
    mark: float | None = None
    warnings: list[str] = []
    sections: list[Section] = []
    reading: list[tuple[str, str]] = []
    facts: list[tuple[str, str]] = []
    source: str = ""

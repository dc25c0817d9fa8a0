"""Text for a terminal: the answer first, then why, then what else could be done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from memprof.model.result import Result
from memprof.units import format_bytes, gib
from memprof.views import phrases, spark
from memprof.views.console import captured
from memprof.views.console import console as console_for
from memprof.views.terminal import Terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_STYLES = {"fits": "bold green", "tight": "bold yellow", "does_not_fit": "bold red", "unknown": "bold"}
_BAR_WIDTH = 24
_WIDE_ENOUGH_FOR_BARS = 64
_MODULES = 6


def render(result: Result, terminal: Terminal) -> str:
    """The whole answer; its first line stays one line, the rest fits the width, and no number is cut."""
    console = console_for(terminal)
    console.print(phrases.answer(result), style=_STYLES[result.verdict.status], soft_wrap=True)
    console.print()
    console.print(phrases.model_line(result))
    console.print(phrases.scenario_line(result), style="dim")
    _section(console, f"At the peak, in {phrases.peak_place(result)}", _breakdown(result, terminal))
    _section(console, "Where, the largest", _modules(result))
    _step(console, result, terminal)
    _section(console, "Peak of each phase", _sizes(result.phase_peak_bytes))
    _section(console, "Held all the time", _sizes(result.persistent_bytes))
    if result.alternatives:
        rows = [(*phrases.alternative_row(a), _STYLES[a.status]) for a in result.alternatives]
        _section(console, "Other ways to run it", _alternatives(rows))
    if result.terms:
        _section(console, "Terms", None)
        _terms(console, result)
    advice = phrases.advice(result)
    if advice is not None:
        console.print()
        console.print(advice, style="bold")
    _closing(console, result)
    return captured(console)


def _section(console: Console, title: str, body: Table | None) -> None:
    if body is not None and not body.row_count:
        return
    console.print()
    console.print(title, style="bold")
    if body is not None:
        console.print(body)


def _grid(*justify: str) -> Table:
    """A table without lines, indented by two; a cell too long for its column goes on below."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 0, 0, 2), pad_edge=True)
    for side in justify:
        grid.add_column(justify=side, overflow="fold", no_wrap=side == "right")  # type: ignore[arg-type]
    return grid


def _breakdown(result: Result, terminal: Terminal) -> Table:
    bars = terminal.width >= _WIDE_ENOUGH_FOR_BARS
    grid = _grid("left", "right", "right", *(["left"] if bars else []))
    block = "█" if terminal.unicode else "#"
    for name, size, percent, share in phrases.component_rows(result):
        grid.add_row(name, gib(size), percent, *([block * round(share * _BAR_WIDTH)] if bars else []))
    grid.add_row("allocated", gib(result.peak.allocated_bytes), "", style="bold")
    for name, extra in result.overhead_bytes.items():
        if extra:
            grid.add_row(phrases.spelled(name), gib(extra))
    return grid


def _modules(result: Result) -> Table:
    """The largest holders of what is alive at the peak."""
    grid = _grid("left", "right", "left")
    for row in sorted(result.modules_at_peak, key=lambda row: -row["bytes"])[:_MODULES]:
        grid.add_row(row["module"] or "(the whole model)", gib(row["bytes"]), phrases.spelled(row["component"]))
    return grid


def _step(console: Console, result: Result, terminal: Terminal) -> None:
    """The timeline in one line, and below it where each phase begins."""
    columns, rows = result.timeline.columns, result.timeline.rows
    at = {name: index for index, name in enumerate(columns)}
    if len(rows) < 2 or not {"phase", "requested_bytes"} <= at.keys():
        return
    levels = [row[at["requested_bytes"]] for row in rows]
    drawn = spark.bars(levels, terminal.width - 2, terminal.unicode)
    names = spark.names([str(row[at["phase"]]) for row in rows], len(drawn))
    console.print()
    console.print(f"The step, up to {gib(max(levels))}", style="bold")
    console.print(f"  {drawn}\n  {names}".rstrip(), soft_wrap=True)


def _sizes(sizes: dict[str, int | None] | dict[str, int]) -> Table:
    grid = _grid("left", "right")
    for name, size in sizes.items():
        if size is not None:
            grid.add_row(phrases.spelled(name), gib(size))
    return grid


def _alternatives(rows: Iterable[tuple[str, str, str, str]]) -> Table:
    from rich.text import Text

    grid = _grid("left", "right", "left")
    for name, peak, verdict, style in rows:
        grid.add_row(name, peak, Text(verdict, style=style.removeprefix("bold ")))
    return grid


def _terms(console: Console, result: Result) -> None:
    from rich.padding import Padding

    for term in result.terms:
        size = term.get("bytes")
        console.print(Padding(f"{term['term']}: {'' if size is None else format_bytes(size)}", (0, 0, 0, 2)))
        for name in ("formula", "values", "source"):
            if term.get(name):
                line = phrases.term_values(term[name])
                console.print(Padding(line, (0, 0, 0, 6)), style="dim")


def _closing(console: Console, result: Result) -> None:
    console.print()
    for warning in result.warnings:
        console.print(f"warning: {warning}", style="yellow")
    console.print(f"evidence: {result.evidence.rung}: {result.evidence.basis}", style="dim")

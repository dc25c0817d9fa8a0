"""A plain table for commands that list things."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memprof.views.terminal import Terminal


def render(header: Sequence[str], rows: Iterable[Sequence[str]], terminal: Terminal, *, numbers: Sequence[int]) -> str:
    """Rows under their header; the columns in ``numbers`` are set to the right. A long cell goes on below, uncut."""
    from rich.table import Table

    from memprof.views.console import captured, console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, title in enumerate(header):
        is_number = index in numbers
        table.add_column(title, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for row in rows:
        table.add_row(*row)
    screen = console(terminal)
    screen.print(table)
    return captured(screen)

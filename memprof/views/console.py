"""A rich console that draws into text instead of onto the screen."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from memprof.views.terminal import Terminal

if TYPE_CHECKING:
    from rich.console import Console


def console(terminal: Terminal) -> Console:
    """A console as wide and as colourful as the terminal; text is taken as it is, without markup."""
    from rich.console import Console

    return Console(
        file=StringIO(),
        width=terminal.width,
        force_terminal=terminal.color,
        color_system="standard" if terminal.color else None,
        no_color=not terminal.color,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )


def captured(screen: Console) -> str:
    """What was drawn, without the blanks that fill each line."""
    assert isinstance(screen.file, StringIO)
    return "".join(line.rstrip() + "\n" for line in screen.file.getvalue().splitlines())

"""What the screen can show: width, colour, characters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TextIO

NARROWEST = 40


class Terminal(NamedTuple):
    """``width`` in columns; ``unicode`` is off where block characters cannot be encoded."""

    width: int
    color: bool
    unicode: bool


PLAIN = Terminal(width=100, color=False, unicode=True)


def terminal_of(stream: TextIO, environ: Mapping[str, str]) -> Terminal:
    """NO_COLOR beats FORCE_COLOR, which beats what the stream is; COLUMNS beats the window's width.

    Source: https://no-color.org and https://force-color.org: set means set to anything but the empty string.
    """
    from shutil import get_terminal_size

    screen = stream.isatty()
    color = bool(environ.get("FORCE_COLOR")) or (screen and environ.get("TERM") != "dumb")
    columns = environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() else get_terminal_size().columns if screen else PLAIN.width
    return Terminal(max(width, NARROWEST), color and not environ.get("NO_COLOR"), _encodes(stream, "█"))


def _encodes(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True

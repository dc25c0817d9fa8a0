"""Levels over time in one line of text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = ".:-=+*#@"
_SHORTEST = 4


def bars(levels: Sequence[int], width: int, unicode: bool) -> str:
    """A column for each stretch of levels, as high as the highest of them; at most ``width`` columns."""
    step = _step(len(levels), width)
    columns = [max(levels[start : start + step]) for start in range(0, len(levels), step)]
    shapes = _BARS if unicode else _ASCII_BARS
    top = max(*columns, 1)
    return "".join(shapes[min(level * len(shapes) // top, len(shapes) - 1)] for level in columns)


def names(labels: Sequence[str], width: int) -> str:
    """Where each stretch of equal labels begins below ``bars`` of as many levels; cut to its room, or left out."""
    step = _step(len(labels), width)
    line = ""
    for label, same in groupby(labels[::step]):
        room = len(list(same))
        line += (label[: room - 1] if room > _SHORTEST else "").ljust(room)
    return line.rstrip()


def _step(count: int, width: int) -> int:
    return max(-(-count // max(width, 1)), 1)

"""TOML as plain data with the line of every key that starts one."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from typing import Any

import msgspec

from memprof.errors import ConfigError
from memprof.importers.documents import MAX_DEPTH, Keys, Lines

_toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

_MAX_DOTS = 512
"""In one line: the standard library takes time that grows with the square of a dotted key's parts."""
_BARE_OR_QUOTED = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_BARE_OR_QUOTED}(?:[ \t]*\.[ \t]*{_BARE_OR_QUOTED})*"
_HEADER = re.compile(rf"[ \t]*(\[\[?)[ \t]*({_DOTTED})[ \t]*\]")
_KEY = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_PART = re.compile(_BARE_OR_QUOTED)


def parse(text: str) -> tuple[dict[str, Any], Lines]:
    """The tables that a text holds, and the line of each header and key; dates become text.

    Raises:
        ConfigError: it is not TOML, or nested too deep.
    """
    too_deep = ConfigError("fields nested too deep", f"{MAX_DEPTH} levels are read")
    if any(line.count(".") > _MAX_DOTS for line in text.splitlines()):
        raise too_deep
    try:
        data: dict[str, Any] = msgspec.to_builtins(_toml.loads(text))
    except RecursionError:
        raise too_deep from None
    except ValueError as error:
        raise ConfigError(f"it is not TOML: {error}", "one `field = value` a line, text in quotes") from None
    if _depth(data) > MAX_DEPTH:
        raise too_deep
    if not data:
        raise ConfigError("it holds no fields", "write one `field = value` a line")
    return data, _lines(text, data)


def _depth(data: Any) -> int:
    level, depth = [data], 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [inner for value in level for inner in _inside(value)]
    return depth


def _inside(value: Any) -> list[Any]:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [item for item in inner if isinstance(item, dict | list)]


def _lines(text: str, data: dict[str, Any]) -> Lines:
    """Lines that look like a header or a key of ``data``; the first of two that do (one in a long string) is kept."""
    lines: Lines = {}
    table: Keys = ()
    num_tables: dict[Keys, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _parts(header.group(2))
            if header.group(1) == "[[":
                num_tables[table] = num_tables.get(table, 0) + 1
                lines.setdefault(table, number)
            table = _indexed(table, num_tables)
            _note(lines, table, number, data)
        elif key := _KEY.match(line):
            _note(lines, (*table, *_parts(key.group(1))), number, data)
    return lines


def _parts(dotted: str) -> Keys:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _indexed(table: Keys, num_tables: dict[Keys, int]) -> Keys:
    """A header's path with the index of each table that stands in a list: the last one that was opened."""
    indexed: list[str | int] = []
    for end, part in enumerate(table, start=1):
        indexed.append(part)
        if table[:end] in num_tables:
            indexed.append(num_tables[table[:end]] - 1)
    return tuple(indexed)


def _note(lines: Lines, path: Keys, number: int, data: Any) -> None:
    try:
        for step in path:
            data = data[step]
    except (KeyError, IndexError, TypeError):
        return
    lines.setdefault(path, number)

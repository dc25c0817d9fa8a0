"""JSON as plain data with the line of every key; a key twice is refused, as DeepSpeed refuses it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from memprof.errors import ConfigError
from memprof.importers.documents import MAX_DEPTH, MAX_VALUES, Lines, printable

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|\n|[^\s"{}\[\],:]+')


def parse(text: str) -> tuple[dict[str, Any], Lines]:
    """The object that a text holds, and the line of each key.

    Raises:
        ConfigError: anything else, with the line.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"line {error.lineno}: {error.msg}", "it must be JSON") from None
    except RecursionError:
        raise _too_deep(1) from None
    except ValueError:
        raise ConfigError("a number is too long", "is it the right file?") from None
    if not isinstance(data, dict):
        raise ConfigError("it holds no fields", 'write {"field": value}')
    return data, _lines(text)


def _lines(text: str) -> Lines:
    """Line of each key and list item of a sound text."""
    lines: Lines = {}
    path: list[str | int] = []  # of each open bracket: the key or the index that is being read
    before = ""
    for token, line in _tokens(text):
        if token in ("}", "]"):
            path.pop()
        elif token == ",":
            if isinstance(path[-1], int):
                path[-1] += 1
        elif token != ":" and path and before != ":":
            if isinstance(path[-1], str):
                path[-1] = json.loads(token) if token != "{" else ""
            if tuple(path) in lines:
                raise ConfigError(f"line {line}: {printable(str(path[-1]))} twice is not allowed", "keep one of them")
            lines[tuple(path)] = line
        if token in ("{", "["):
            path.append("" if token == "{" else 0)
        if len(path) > MAX_DEPTH:
            raise _too_deep(line)
        if len(lines) > MAX_VALUES:
            raise ConfigError(f"line {line}: more than {MAX_VALUES:,} values", "is it the right file?")
        before = token
    return lines


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.group() == "\n":
            line += 1
        else:
            yield match.group(), line


def _too_deep(line: int) -> ConfigError:
    return ConfigError(f"line {line}: fields nested too deep", f"{MAX_DEPTH} levels are read")

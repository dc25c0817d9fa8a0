"""The catalog's files: read one after another, parsed only where a name is found in the text.

Written with ``os``: importing ``pathlib`` takes half as long as starting Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

_toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


def texts(folder: str) -> Iterator[str]:
    """The text of each file in a folder of this package, by file name; files after the last one used stay unread."""
    folder = os.path.join(os.path.dirname(__file__), folder)
    return (_text(os.path.join(folder, name)) for name in sorted(os.listdir(folder)) if name.endswith(".toml"))


@cache
def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def parse(text: str) -> dict[str, Any]:
    """The tables of a file."""
    tables: dict[str, Any] = _toml.loads(text)
    return tables

"""A config file as plain data, with the line of every key; what is hostile or broken is one ConfigError.

YAML, JSON and TOML are read as data alone: no tags, no code, no includes. Bounds hold for all three - size, depth,
and the number of values after aliases are expanded - so that a file from a stranger takes little time and memory.
"""

from __future__ import annotations

import os
import stat
from typing import Any

import msgspec

from memprof.errors import ConfigError

MAX_FILE_BYTES = 256 << 10
MAX_DEPTH = 16
MAX_VALUES = 50_000

Keys = tuple[str | int, ...]
"""Keys from the top down to a value; an item of a list is its index."""
Lines = dict[Keys, int]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One file's top-level mapping.

    Attributes:
        path: as it was asked for.
        data: mappings, lists, text, numbers, booleans and None.
        lines: line of each key and list item, the first being 1.
    """

    path: str
    data: dict[str, Any]
    lines: Lines

    def line(self, *keys: str | int) -> int | None:
        """Line of a key, or of the nearest key above it that has one (what an alias stands for has none)."""
        for end in range(len(keys), 0, -1):
            if (line := self.lines.get(keys[:end])) is not None:
                return line
        return None

    def where(self, *keys: str | int) -> str:
        """``"train.yaml:12"`` of a key, the path alone where no line is known."""
        line = self.line(*keys)
        return self.path if line is None else f"{self.path}:{line}"


def read(path: str, *, what: str = "config file", root: str | None = None) -> Document:
    """The file at ``path``: JSON or TOML by its suffix, else YAML, or JSON where it opens with a brace.

    Args:
        path: a regular file; a link to one is followed.
        what: the file's part in the error messages.
        root: a folder that the file has to be in, links resolved; None for anywhere.

    Raises:
        ConfigError: no such file, outside ``root``, too large, not text, broken, or not one mapping.
    """
    text = read_text(path, what=what, root=root)
    try:
        data, lines = _parse(text, path.lower().rpartition(".")[2])
    except ConfigError as error:
        raise ConfigError(f"{what} {path}: {error.message}", error.hint) from None
    return Document(path=path, data=data, lines=lines)


def _parse(text: str, suffix: str) -> tuple[dict[str, Any], Lines]:
    """Each reader is imported for its own files only."""
    if suffix == "toml":
        from memprof.importers.toml_lines import parse as toml

        return toml(text)
    if suffix == "json" or (suffix not in ("yaml", "yml") and text.lstrip().startswith("{")):
        from memprof.importers.json_lines import parse as json

        return json(text)
    from memprof.importers.yaml_lines import parse as yaml

    return yaml(text)


def read_text(path: str, *, what: str, limit: int = MAX_FILE_BYTES, root: str | None = None) -> str:
    """The text of a regular UTF-8 file of at most ``limit`` bytes, a byte order mark dropped.

    Raises:
        ConfigError: anything else.
    """
    if root is not None and not _inside(path, root):
        raise ConfigError(f"{what} {path} lies outside {root}", "only files inside it are read")
    try:
        content = _content(path, limit)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{what} {path} cannot be read: {reason}", "check the path") from None
    if len(content) > limit:
        raise ConfigError(f"{what} {path} is larger than {limit >> 10} KiB", "is it the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {path} is not UTF-8 text", "is it the right file?") from None


def printable(text: str) -> str:
    """A name from a file as it may stand in a message: not long, and no control characters."""
    short = text if len(text) <= 60 else text[:57] + "..."
    return short if short.isprintable() else ascii(short)


def _inside(path: str, root: str) -> bool:
    try:
        real, folder = os.path.realpath(path), os.path.realpath(root)
        return os.path.commonpath((real, folder)) == folder
    except ValueError:  # a NUL in the path, or another drive
        return False


def _content(path: str, limit: int) -> bytes:
    """At most one byte more than the limit; what is no file (a pipe, a device) would block or never end."""
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "it is not a file")
        return file.read(limit + 1)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

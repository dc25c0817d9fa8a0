"""Where an answer goes: stdout, or a file that is whole or not there."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from memprof.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from memprof.views.terminal import Terminal

FORMATS = ("text", "json", "markdown", "html")
VIEWS = ("text", "markdown", "html")
# By the name of the value's type, so that no type is imported for the sake of this table.
_VIEWS = {
    ("Result", "text"): "text",
    ("Result", "markdown"): "markdown",
    ("SnapshotReport", "text"): "snapshot_text",
    ("Comparison", "text"): "comparison_text",
    ("Comparison", "markdown"): "comparison_markdown",
    ("CheckReport", "text"): "check_text",
    ("CheckReport", "markdown"): "check_markdown",
    ("Verification", "text"): "verification_text",
    ("Claims", "text"): "claims_text",
    ("Accuracy", "text"): "accuracy_text",
    ("Accuracy", "markdown"): "accuracy_markdown",
    ("Imported", "text"): "imported_text",
    ("Imported", "markdown"): "imported_markdown",
}
_SUFFIXES = {".txt": "text", ".json": "json", ".md": "markdown", ".html": "html"}


def format_of(path: str | None, chosen: str | None, as_json: bool) -> str:
    """The format that ``--json``, ``--format`` or the suffix of ``-o FILE`` asks for; text where none does.

    Raises:
        UsageError: they exclude each other, or the suffix says nothing.
    """
    if as_json and chosen not in (None, "json"):
        raise UsageError(f"--json and --format {chosen} exclude each other", "drop one of them")
    if as_json:
        return "json"
    if chosen is not None:
        return chosen
    if path is None:
        return "text"
    from pathlib import Path  # slow to import, so only where there is a file

    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise UsageError(f"the suffix of {path} names no format", f"end it in {', '.join(_SUFFIXES)}, or add --format")
    return _SUFFIXES[suffix]


def render(value: Any, view: str, *, to_file: bool = False) -> str:
    """A value in one of ``FORMATS``; text fits the terminal, or is plain and 100 wide for a file.

    Raises:
        UsageError: there is no such view of this kind of value.
    """
    if view == "json":
        from memprof.views import json

        return json.render(value)
    if view == "html":
        from memprof.views.html import document

        return document.render(value)
    kind = type(value).__name__
    name = _VIEWS.get((kind, view))
    if name is None:
        raise UsageError(f"there is no {view} view of a {kind}", "use --format html")
    module = import_module(f"memprof.views.{name}")
    drawn: str = module.render(value) if view == "markdown" else module.render(value, _terminal(to_file))
    return drawn


def render_all(values: Sequence[Any], view: str, *, to_file: bool = False) -> str:
    """Several values, read from files, in one answer: pages of one HTML file, or one text after the other.

    Raises:
        ConfigError: a file holds the fields of a result, but in them what no memprof writes.
    """
    try:
        if view == "html":
            from memprof.views.html import document

            return document.render(*values)
        return "\n".join(render(value, view, to_file=to_file) for value in values)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        hint = "write it again with this memprof"
        raise ConfigError(f"a result cannot be drawn: {type(error).__name__} at {error}", hint) from error


def _terminal(to_file: bool) -> Terminal:
    from memprof.views.terminal import PLAIN, terminal_of

    return PLAIN if to_file else terminal_of(sys.stdout, os.environ)


def emit(text: str) -> None:
    """Writes an answer to stdout; a character that the terminal lacks is escaped, never an error."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace"), nl=False)


def refuse_overwrite(path: str, force: bool) -> None:
    """Said before the work is done, not after it.

    Raises:
        UsageError: the file exists and ``--force`` was not given.
    """
    from pathlib import Path

    if not force and Path(path).exists():
        raise UsageError(f"{path} exists", "choose another name, or add --force")


def write(answer: str | bytes, path: str, force: bool) -> None:
    """Writes an answer to a file, through a temporary one beside it.

    Raises:
        UsageError: the file exists and ``--force`` was not given, or it cannot be written.
    """
    refuse_overwrite(path, force)
    replace(answer, path)


def replace(answer: str | bytes, path: str) -> None:
    """As ``write``, whether or not the file exists.

    Raises:
        UsageError: it cannot be written.
    """
    from pathlib import Path

    draft = Path(f"{path}.{os.getpid()}.part")
    try:
        with draft.open("xb") as file:
            file.write(answer.encode() if isinstance(answer, str) else answer)
        draft.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "choose another place") from None
    finally:
        draft.unlink(missing_ok=True)
    click.echo(f"wrote {path}", err=True)

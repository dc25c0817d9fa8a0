"""Where an answer goes: stdout, or a file that is whole or not there."""

from __future__ import annotations

import os
import sys

import click

from memprof.errors import UnsupportedError, UsageError
from memprof.model.result import Result

FORMATS = ("text", "json", "markdown", "html")
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


def render(result: Result, view: str, *, to_file: bool = False) -> str:
    """The result in one of ``FORMATS``; text fits the terminal, or is plain and 100 wide for a file.

    Raises:
        UnsupportedError: a format that has no view yet.
    """
    if view == "json":
        from memprof.views import json

        return json.render(result)
    if view == "markdown":
        from memprof.views import markdown

        return markdown.render(result)
    if view == "text":
        from memprof.views import text
        from memprof.views.terminal import PLAIN, terminal_of

        return text.render(result, PLAIN if to_file else terminal_of(sys.stdout, os.environ))
    raise UnsupportedError(f"the {view} view is not built yet", "use --format markdown or json")


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

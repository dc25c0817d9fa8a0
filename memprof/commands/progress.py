"""What takes longer says on stderr what it does: one line that is rewritten on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys

import click


def report_progress(what: str) -> None:
    """Says what is being done now; an empty text ends it."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{what}" if what else "\r\x1b[K", err=True, nl=False)
    elif what:
        click.echo(what, err=True)

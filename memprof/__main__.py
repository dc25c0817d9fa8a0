"""The command ``memprof``: runs one command; turns what goes wrong into one line and an exit code.

Exit codes: 0 answered, 1 a finding, 2 could not do it, 130 interrupted, 141 the reader of stdout went away.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

import click

from memprof.errors import MemprofError, UsageError


def main(args: Sequence[str] | None = None) -> int:
    """Runs ``memprof`` with the given arguments, those of the process by default; returns the exit code."""
    args = list(sys.argv[1:] if args is None else args) or ["--help"]
    if "--help" in args:
        _dress_help()
    from memprof.commands.cli import cli

    if "_MEMPROF_COMPLETE" in os.environ:
        cli.main(args, prog_name="memprof")
    try:
        _refuse_non_text(args)
        with cli.make_context("memprof", args) as context:
            cli.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _report(_usage_error(error), args)
    except MemprofError as error:
        return _report(error, args)
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def run() -> NoReturn:
    """What the installed command does: ``main``, tuned for a process that gives one answer.

    Rubbish is looked for rarely, and the interpreter is left standing at the end: taking it down object by object takes
    a tenth of an estimate's time.
    """
    gc.set_threshold(100_000)
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _refuse_non_text(args: Sequence[str]) -> None:
    """Bytes that are no UTF-8 reach Python as lone surrogates, which JSON cannot hold."""
    for arg in args:
        if not arg.isascii() and any("\ud800" <= letter <= "\udfff" for letter in arg):
            raise UsageError(f"an argument is not UTF-8 text: {arg!a}", "rename the file, or set a UTF-8 locale")


def _dress_help() -> None:
    """Has click draw its help with rich; slow to import, so only where help is asked for."""
    from rich_click.patch import patch

    patch()


def _usage_error(error: click.ClickException) -> UsageError:
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "memprof"
    hint = f"see {command} --help"
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        hint = f"did you mean {error.possibilities[0]}?"
    message = error.message if isinstance(error, click.NoSuchOption) else error.format_message()
    return UsageError(message.rstrip("."), hint)


def _report(error: MemprofError, args: Sequence[str]) -> int:
    if _wants_json(args):
        from memprof.views.json import render_error

        click.echo(render_error(error).encode(), nl=False)
    else:
        line = " ".join(str(error).split())
        click.echo(f"memprof: error: {line}", err=True)
    return 2


def _wants_json(args: Sequence[str]) -> bool:
    """Whether the answer would have been JSON on stdout; the arguments may be too broken to parse."""
    if not {"--json", "--format=json", "--output=json"}.isdisjoint(args):
        return True
    return any(pair in (("--format", "json"), ("--output", "json")) for pair in pairwise(args))


if __name__ == "__main__":
    run()

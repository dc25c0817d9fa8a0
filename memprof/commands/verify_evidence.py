"""``memprof verify --replay`` and ``--import``: what works on recorded runs and runs nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from memprof.commands.output import FORMATS, emit, format_of, refuse_overwrite, render, write
from memprof.commands.progress import report_progress
from memprof.errors import UsageError

STORE = Path("reports/evidence")

_Command = TypeVar("_Command", bound=Callable[..., Any])


def evidence_options(command: _Command) -> _Command:
    """The options that ``answered`` takes."""
    options = (
        click.option("--replay", metavar="DIR", type=click.Path(path_type=Path), help="Predict recorded runs anew."),
        click.option(
            "--import", "imported", metavar="FILE", type=click.Path(path_type=Path),
            help="Add others' records, one a line: memprof's, or those of record_runs.py.",
        ),
        click.option(
            "--engine", "engines", multiple=True, type=click.Choice(("analytic", "trace")),
            help="Of --replay; both by default, which takes minutes.",
        ),
        click.option("--update-summary", is_flag=True, help="Of --replay: write DIR/summary.json anew."),
        click.option("--reason", default="", help="Why the summary may say that something is worse than it was."),
        click.option("--format", "chosen", type=click.Choice(FORMATS), help="Of --replay and --import."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def answered(
    ctx: click.Context,
    *,
    replay: Path | None,
    imported: Path | None,
    engines: tuple[str, ...],
    update_summary: bool,
    reason: str,
    chosen: str | None,
    out: Path | None,
    as_json: bool,
    path: str | None,
    force: bool,
) -> bool:
    """Whether the command line asked for recorded runs; if so, it is answered. Ends with 1 where accuracy is worse.

    Raises:
        UsageError: options that exclude each other.
    """
    if replay is None and imported is None:
        if engines or update_summary or reason:
            raise UsageError("--engine, --update-summary and --reason belong to --replay", "add --replay DIR")
        return False
    if replay is not None and imported is not None:
        raise UsageError("--replay and --import exclude each other", "import first, then replay")
    view = format_of(path, chosen, as_json)
    if path is not None:
        refuse_overwrite(path, force)
    if imported is not None:
        from memprof.verify.imports import import_file

        answer: Any = import_file(imported, out or STORE)
        is_worse = False
    else:
        assert replay is not None
        answer = _replayed(replay, engines, update_summary, reason)
        is_worse = bool(answer.worse)
    if path is None:
        emit(render(answer, view))
    else:
        write(render(answer, view, to_file=True), path, force)
    if is_worse:
        ctx.exit(1)
    return True


def _replayed(folder: Path, engines: tuple[str, ...], update_summary: bool, reason: str) -> Any:
    """The scores of today beside the store's summary, which they replace where asked."""
    from memprof.verify import store, summary
    from memprof.verify.replay import replay
    from memprof.verify.run import ENGINES

    if update_summary and engines:
        raise UsageError("a summary is of all engines", "drop --engine")
    path = summary.of(folder)
    before = summary.read(path) if path.exists() else None
    records = store.read_all(folder)
    accuracy = replay(records, engines=engines or ENGINES, progress=report_progress)
    if update_summary:
        accuracy = summary.updated(before, accuracy, reason)
        summary.write(accuracy, path)
        click.echo(f"wrote {path}", err=True)
        return accuracy
    if before is None:
        return accuracy
    return msgspec.structs.replace(accuracy, worse=summary.loosened(before, accuracy))

"""``memprof diff A B``: what differs between two saved results of any kind."""

from __future__ import annotations

import click

from memprof.commands.cli import command_line
from memprof.commands.output import FORMATS, emit, format_of, refuse_overwrite, render_all, write


@click.command()
@click.argument("before", metavar="A.json")
@click.argument("after", metavar="B.json")
@click.option("--format", "chosen", type=click.Choice(FORMATS), help="How the answer is written; text by default.")
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
@click.option("-o", "path", metavar="FILE", help="Write the answer there; the suffix chooses the format.")
@click.option("--force", is_flag=True, help="Overwrite that file.")
@click.pass_context
def command(
    ctx: click.Context, /, before: str, after: str, chosen: str | None, as_json: bool, path: str | None, force: bool
) -> None:
    """Say what differs from A to B: bytes by component, phase and module, and the settings that did it.

    Both are files that --json or -o FILE.json of another command wrote; an estimate and a snapshot can be compared.
    """
    view = format_of(path, chosen, as_json)
    if path is not None:
        refuse_overwrite(path, force)
    from memprof.compare import compare
    from memprof.saved import read

    answer = compare(read(before), read(after), (before, after), command_line(ctx))
    text = render_all([answer], view, to_file=path is not None)
    if path is None:
        emit(text)
    else:
        write(text, path, force)

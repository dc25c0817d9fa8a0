"""``memprof report RESULT.json...``: saved results, drawn again."""

from __future__ import annotations

import click

from memprof.commands.output import VIEWS, emit, format_of, refuse_overwrite, render_all, write


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="RESULT.json...")
@click.option("--format", "chosen", type=click.Choice(VIEWS), help="How they are drawn; text by default.")
@click.option("-o", "path", metavar="FILE", help="Write them there; the suffix chooses the format.")
@click.option("--force", is_flag=True, help="Overwrite that file.")
def command(files: tuple[str, ...], chosen: str | None, path: str | None, force: bool) -> None:
    """Draw saved results: one HTML file, Markdown, or text.

    Each RESULT.json is what --json or -o FILE.json of another command wrote.
    """
    view = format_of(path, chosen, as_json=False)
    if path is not None:
        refuse_overwrite(path, force)
    from memprof.saved import read

    answer = render_all([read(file) for file in files], view, to_file=path is not None)
    if path is None:
        emit(answer)
    else:
        write(answer, path, force)

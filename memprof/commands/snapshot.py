"""``memprof snapshot FILE``: what a recorded run held, who held it, and why a request failed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memprof.commands.cli import command_line
from memprof.commands.output import emit, refuse_overwrite, render, write
from memprof.errors import UsageError

if TYPE_CHECKING:
    from memprof.model.snapshot import SnapshotReport

_EXPORTS = {
    ".pickle": "torch_snapshot", ".pkl": "torch_snapshot", ".json": "chrome_trace", ".perfetto-trace": "perfetto",
}  # fmt: skip


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Write the answer as JSON.")
@click.option("--diff", "later", metavar="B", type=click.Path(path_type=Path), help="List what grew from FILE to B.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(min=1), help="How many sites to list.")
@click.option("--device", metavar="NAME", help="Whose memory it was, where a tape ends out of memory.")
@click.option(
    "-o",
    "path",
    metavar="OUT",
    help="Write to a file. As a recording: .pickle for PyTorch's memory viewer, .json for Chrome's and Perfetto's "
    "trace viewers, .perfetto-trace for Perfetto. The answer: .html, .txt, or .json with --json.",
)
@click.option("--force", is_flag=True, help="Overwrite that file.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    file: Path,
    as_json: bool,
    later: Path | None,
    top: int,
    device: str | None,
    path: str | None,
    force: bool,
) -> None:
    """Say who held the memory of a recorded run, and why it ran out.

    FILE is what torch.cuda.memory._dump_snapshot wrote, or a tape. Nothing in it is ever executed.
    """
    device_bytes = _total_bytes(device)
    from memprof.measure.snapshot import analyse

    if path is not None:
        refuse_overwrite(path, force)
        if not as_json and not path.endswith((".txt", ".html")):
            write(_export(file, path, device_bytes), path, force)
            return
    report = analyse(file, device_bytes=device_bytes, compare_with=later, command=command_line(ctx))
    view = "json" if as_json else "html" if path is not None and path.endswith(".html") else "text"
    text = _text(report, top, path is not None) if view == "text" else render(report, view)
    if path is None:
        emit(text)
    else:
        write(text, path, force)


def _text(report: SnapshotReport, top: int, to_file: bool) -> str:
    from memprof.views.snapshot_text import render
    from memprof.views.terminal import PLAIN, terminal_of

    return render(report, PLAIN if to_file else terminal_of(sys.stdout, os.environ), top)


def _export(file: Path, path: str, device_bytes: int | None) -> bytes:
    """The recording in the form that a suffix names."""
    from importlib import import_module

    from memprof.measure.snapshot import tape_of_file

    view = next((view for suffix, view in _EXPORTS.items() if path.endswith(suffix)), None)
    if view is None:
        raise UsageError(f"the suffix of {path} names no format", f"end it in {', '.join(_EXPORTS)} .html or .txt")
    tape, capacity = tape_of_file(file, device_bytes=device_bytes)
    rendered: bytes = import_module(f"memprof.views.{view}").render(tape, device_bytes=capacity)
    return rendered


def _total_bytes(name: str | None) -> int | None:
    if name is None:
        return None
    from memprof.catalog.device_catalog import device

    return device(name).total_bytes

"""``memprof estimate MODEL``: what one step takes, and whether it fits."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from memprof import api
from memprof.commands.cli import command_line
from memprof.commands.output import FORMATS, emit, format_of, refuse_overwrite, render, write
from memprof.commands.progress import report_progress
from memprof.commands.scenario_flags import scenario_flags, scenario_of


@click.command()
@scenario_flags
@click.option("--engine", type=click.Choice(("auto", "analytic", "trace")), default="auto", help="Who predicts it.")
@click.option("--format", "chosen", type=click.Choice(FORMATS), help="How the answer is written; text by default.")
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
@click.option("-o", "path", metavar="FILE", help="Write the answer there; the suffix chooses the format.")
@click.option("--force", is_flag=True, help="Overwrite that file.")
@click.option("--online", is_flag=True, help="Look a model up on the hub where the catalog lacks it.")
@click.option("--explain", is_flag=True, help="Show each term with its formula, values and source.")
@click.option("--strict", is_flag=True, help="Exit with 1 where it does not fit.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    engine: str,
    chosen: str | None,
    as_json: bool,
    path: str | None,
    force: bool,
    online: bool,
    explain: bool,
    strict: bool,
    **described: Any,
) -> None:
    """Predict the GPU memory of one training or inference step of MODEL.

    MODEL is a name from `memprof models`, a hub id, a path of a config.json, or a model folder. With no flags: one
    training step, micro-batch 1 x 2048 tokens, bf16-mixed, AdamW, on an H100 with 80 GB.

    With --from a training config of another library describes it, the model too; what it leaves out or assumes is
    among the warnings.
    """
    view = format_of(path, chosen, as_json)
    if path is not None:
        refuse_overwrite(path, force)
    scenario, notes = scenario_of(**described)
    result = api.estimate(
        scenario,
        engine=engine,
        online=online,
        explain=explain,
        alternatives=True,
        command=command_line(ctx),
        progress=report_progress,
    )
    result = msgspec.structs.replace(result, warnings=[*notes, *result.warnings])
    if path is None:
        emit(render(result, view))
    else:
        write(render(result, view, to_file=True), path, force)
    if strict and result.verdict.status == "does_not_fit":
        ctx.exit(1)

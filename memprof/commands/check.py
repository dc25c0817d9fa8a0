"""``memprof check``: whether each scenario of a repository keeps its memory budget."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import click

from memprof.commands.output import emit, refuse_overwrite, replace, write
from memprof.errors import MemprofError, UsageError, did_you_mean
from memprof.model.check_report import CheckReport

_VIEWS = {
    "json": "check_json",
    "markdown": "check_markdown",
    "html": "html.document",
    "github": "github",
    "junit": "junit",
    "sarif": "sarif",
}
FORMATS = ("text", "concise", *_VIEWS)
_WHOLE = ("json", "html", "junit", "sarif")
"""Formats that a program reads: nothing else may stand on the same stdout."""


class Output(NamedTuple):
    """A format, and the file it goes to; None for stdout."""

    view: str
    path: str | None


@click.command()
@click.option("--config", "config_path", metavar="FILE", help="A memprof.yaml or pyproject.toml; else the nearest one.")
@click.option("--baseline", "baseline_path", metavar="FILE", help="Another baseline than the config names.")
@click.option(
    "--engine",
    type=click.Choice(("auto", "analytic", "trace")),
    default="analytic",
    show_default=True,
    help="As for memprof estimate; auto and trace need torch, and run the model's own code.",
)
@click.option("--update-baseline", is_flag=True, help="Show how the bytes differ from the baseline's, then write them.")
@click.option(
    "--output", "asked", multiple=True, metavar="FORMAT[:FILE]", help=f"{', '.join(FORMATS)}; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Short for --output json.")
@click.option("--force", is_flag=True, help="Overwrite the files of --output.")
@click.option(
    "--exit-zero", is_flag=True, help="Exit with 0 where checks fail; with 2 still where they cannot be made."
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    config_path: str | None,
    baseline_path: str | None,
    engine: str,
    update_baseline: bool,
    asked: tuple[str, ...],
    as_json: bool,
    force: bool,
    exit_zero: bool,
) -> None:
    r"""Hold scenarios against their memory limits and a baseline, with no GPU and no torch.

    The checks stand in memprof.yaml, or under [tool.memprof] in pyproject.toml:

    \b
    defaults: {device: h100-80gb, metric: reserved, limit: 90 %}
    checks:
      - name: sft
        scenario: {model: llama-3.1-8b, precision: bf16}
        max_increase: 2 %

    A scenario is a file's name or its fields. Exit codes: 0 all pass, 1 one fails or is unknown, 2 could not be made.
    """
    outputs = outputs_of([*asked, *(["json"] if as_json else [])])
    for output in outputs:
        if output.path is not None:
            refuse_overwrite(output.path, force)
    try:
        report = _report(config_path, baseline_path, engine, update_baseline)
    except MemprofError as error:
        if Output("github", None) in outputs:
            from memprof.views.github import render_error

            emit(render_error(error))
        raise
    for output in outputs:
        if output.path is None:
            emit(render(report, output.view))
        else:
            write(render(report, output.view, to_file=True), output.path, force)
    if Output("github", None) in outputs:
        _append_step_summary(report)
    if not exit_zero and any(outcome.severity == "error" for outcome in report.checks):
        ctx.exit(1)


def outputs_of(asked: list[str]) -> list[Output]:
    """What each ``--output`` says; text on stdout where there is none.

    Raises:
        UsageError: a format that is none, or two answers that would mix on stdout or in a file.
    """
    outputs = [Output(view, path or None) for view, _, path in (each.partition(":") for each in asked or ["text"])]
    for output in outputs:
        if output.view not in FORMATS:
            hint = did_you_mean(output.view, FORMATS) or f"the formats are {', '.join(FORMATS)}"
            raise UsageError(f"{output.view!r} is not a format", hint)
    outputs = list(dict.fromkeys(outputs))
    on_stdout = [output.view for output in outputs if output.path is None]
    if len(on_stdout) > 1 and any(view in _WHOLE for view in on_stdout):
        raise UsageError(f"{' and '.join(on_stdout)} would mix on stdout", "give one of them a file: json:checks.json")
    paths = [output.path for output in outputs if output.path is not None]
    if len(set(paths)) < len(paths):
        raise UsageError("two outputs go to one file", "give each its own")
    return outputs


def render(report: CheckReport, view: str, *, to_file: bool = False) -> str:
    """The report in one of ``FORMATS``."""
    if view in _VIEWS:
        text: str = import_module(f"memprof.views.{_VIEWS[view]}").render(report)
        return text
    from memprof.views import check_text
    from memprof.views.terminal import PLAIN, terminal_of

    if view == "concise":
        return check_text.concise(report)
    return check_text.render(report, PLAIN if to_file else terminal_of(sys.stdout, os.environ))


def _report(config_path: str | None, baseline_path: str | None, engine: str, update_baseline: bool) -> CheckReport:
    """The checks made; with ``update_baseline`` against what they come to now, which is written."""
    from memprof.check import baseline, config, run

    settings = config.load(Path(config_path or os.path.relpath(config.find(Path.cwd()))))
    path = settings.baseline if baseline_path is None else Path(baseline_path)
    before = baseline.read(path)
    answers = run.estimates(settings, engine)
    if not update_baseline:
        return run.report(settings, answers, before)
    after = run.baseline_of(settings, answers)
    lines = baseline.difference(before, after) or ["the baseline does not change"]
    click.echo("\n".join(lines), err=True)
    if before != after:
        replace(baseline.encode(after), str(path))
    return run.report(settings, answers, after)


def _append_step_summary(report: CheckReport) -> None:
    """The Markdown on the run's page; GitHub names the file."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(render(report, "markdown"))
    except OSError as error:
        raise UsageError(f"GITHUB_STEP_SUMMARY {path} cannot be written: {error.strerror}") from None

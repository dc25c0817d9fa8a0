"""``memprof verify``: real runs beside the predictions."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memprof import __version__
from memprof.commands.cli import command_line
from memprof.commands.output import emit, refuse_overwrite, write
from memprof.commands.progress import report_progress
from memprof.commands.verify_evidence import answered, evidence_options
from memprof.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from memprof.model.verification import Verification
    from memprof.verify.suite import Job

_SUITES = Path("scenarios")
_REPORTS = Path("reports/verify")


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Path(path_type=Path), metavar="[SCENARIO.yaml ...]")
@click.option("--suite", metavar="NAME", help="Which suite to run; by default the one that suits this machine.")
@click.option("--scenarios", "folder", type=click.Path(path_type=Path), default=_SUITES, help="Where suites.yaml is.")
@click.option("--limit", metavar="SIZE", help="Cap the card, so that a larger one stands for this size.")
@click.option("--timeout", type=click.FloatRange(min=1), help="Seconds that a run may take.")
@click.option("--out", type=click.Path(path_type=Path), help="Where records go, and where a stopped suite goes on.")
@click.option("--again", is_flag=True, help="Run what is recorded there once more.")
@click.option("--json", "as_json", is_flag=True, help="Write the answer as JSON.")
@click.option("-o", "path", metavar="FILE", help="Write the answer there: .txt, .json or .html.")
@click.option("--force", is_flag=True, help="Overwrite that file.")
@evidence_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    scenarios: tuple[Path, ...],
    suite: str | None,
    folder: Path,
    limit: str | None,
    timeout: float | None,
    out: Path | None,
    again: bool,
    as_json: bool,
    path: str | None,
    force: bool,
    **recorded: Any,
) -> None:
    """Run scenarios for real and show how far off each prediction is.

    Without arguments: the suite for this machine, a few minutes on a CPU. Ends with 1 where a run failed or a
    prediction is out of tolerance.

    With --replay nothing runs: recorded runs are predicted anew, with 1 where that is worse than DIR/summary.json says.
    """
    if answered(ctx, out=out, as_json=as_json, path=path, force=force, **recorded):
        return
    from memprof.model.verification import Verification
    from memprof.verify import suite as suites
    from memprof.verify.pairing import verified

    if path is not None:
        refuse_overwrite(path, force)
    jobs = _jobs(scenarios, suite, folder, limit, timeout)
    line = command_line(ctx)
    records = suites.play(jobs, out or _REPORTS, again=again, command=line, progress=report_progress)
    answer = Verification(
        memprof_version=__version__,
        runs=[verified(record) for record in records],
        command=line,
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    report_progress("")
    view = "json" if as_json else Path(path).suffix.removeprefix(".") if path else "txt"
    text = _render(answer, view, to_file=path is not None)
    if path is None:
        emit(text)
    else:
        write(text, path, force)
    if answer.num_failed:
        ctx.exit(1)


def _jobs(
    scenarios: tuple[Path, ...], suite: str | None, folder: Path, limit: str | None, timeout: float | None
) -> list[Job]:
    from memprof.measure.machine import has_cuda
    from memprof.units import parse_bytes
    from memprof.verify import suite as suites

    if scenarios and suite:
        raise UsageError("scenario files and --suite exclude each other", "drop one of them")
    if scenarios:
        jobs = [suites.Job(path.with_suffix("").as_posix(), suites.scenario_of(path)) for path in scenarios]
    else:
        jobs = suites.jobs(suite or ("h100" if has_cuda() else "cpu"), folder)
    needed = sorted({job.scenario.device for job in jobs} - {"cpu"})
    if needed and not has_cuda():
        raise DeviceError(f"no CUDA device is here, which {needed[0]} stands for", "choose --suite cpu, or --replay")
    changes: dict[str, Any] = {}
    if limit is not None:
        changes["limit_bytes"] = parse_bytes(limit)
    if timeout is not None:
        changes["time_limit_s"] = timeout
    return [job._replace(**changes) for job in jobs]


def _render(answer: Verification, view: str, *, to_file: bool) -> str:
    if view == "json":
        from memprof.views import json

        return json.render(answer)
    if view == "txt":
        from memprof.views import verification_text
        from memprof.views.terminal import PLAIN, terminal_of

        return verification_text.render(answer, PLAIN if to_file else terminal_of(sys.stdout, os.environ))
    raise UsageError(f"a verification is not written as .{view}", "end the file in .txt, .json or .html")

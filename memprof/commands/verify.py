"""``memprof verify``: real runs beside the predictions."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memprof import __version__
from memprof.commands.cli import command_line
from memprof.commands.output import emit, format_of, refuse_overwrite, render, write
from memprof.commands.progress import report_progress
from memprof.commands.verify_evidence import STORE, answered, evidence_options
from memprof.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from memprof.verify.claims import Claim
    from memprof.verify.suite import Job

CLAIMS = "claims"
"""A suite that is not in suites.yaml: what runs follows from the statements."""


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Path(path_type=Path), metavar="[SCENARIO.yaml ...]")
@click.option("--suite", metavar="NAME", help="cpu, h100 or claims; by default the one that suits this machine.")
@click.option("--scenarios", "folder", type=click.Path(path_type=Path), help="Where suites.yaml is; memprof's own.")
@click.option("--limit", metavar="SIZE", help="Cap the card, so that a larger one stands for this size.")
@click.option("--timeout", type=click.FloatRange(min=1), help="Seconds that a run may take.")
@click.option("--out", type=click.Path(path_type=Path), help="Where records go, and where a stopped suite goes on.")
@click.option("--again", is_flag=True, help="Begin a stopped suite anew.")
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
    folder: Path | None,
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

    Under torchrun or accelerate launch, every rank runs, rank 0 alone records and prints, and the worst rank counts.
    Without, a scenario of several ranks is run as its rank 0, with collectives that move nothing.

    With --suite claims well-known statements are put to the test; a verdict is of what was measured.

    With --replay nothing runs: recorded runs are predicted anew, with 1 where that is worse than DIR/summary.json says.
    """
    if answered(ctx, out=out, as_json=as_json, path=path, force=force, **recorded):
        return
    from memprof.measure.ranks import launched
    from memprof.model.claims import Claims
    from memprof.model.verification import Verification
    from memprof.verify import claims, ranks
    from memprof.verify import suite as suites
    from memprof.verify.journal import Journal
    from memprof.verify.pairing import verified
    from memprof.verify.room import available_host_bytes, refuse_beyond

    rank = launched()
    if rank is not None and rank.number > 0:
        ranks.follow(rank)
        return
    view = _view(format_of(path, recorded["chosen"], as_json), suite)
    if path is not None:
        refuse_overwrite(path, force)
        _refuse_unwritable(path)
    statements = _claims(folder) if suite == CLAIMS else []
    name, jobs = _jobs(scenarios, suite, folder, statements)
    jobs = _bounded(jobs, limit, timeout)
    ranks.refuse_unready(rank, {job.name: job.scenario for job in jobs})
    refuse_beyond([(job.name, job.scenario) for job in jobs], available_host_bytes())
    line = command_line(ctx)
    journal = Journal(out or STORE, name, again=again or bool(scenarios))
    with ranks.leading(rank) as leader:
        records = list(suites.play(jobs, journal, command=line, progress=report_progress, leader=leader))
    report_progress("")
    made: dict[str, Any] = {"memprof_version": __version__, "command": line, "created_at": _now()}
    if name == CLAIMS:
        tested = list(claims.tested(statements, records))
        answer: Any = Claims(device=records[0].environment.device, tested=tested, **made)
    else:
        answer = Verification(runs=[verified(record) for record in records], **made)
    text = render(answer, view, to_file=path is not None)
    if path is None:
        emit(text)
    else:
        write(text, path, force)
    if answer.num_failed:
        ctx.exit(1)


def _view(view: str, suite: str | None) -> str:
    """Said before anything runs, not after it."""
    views = ("text", "json") if suite == CLAIMS else ("text", "json", "html")
    if view not in views:
        raise UsageError(f"what verify says is not written as {view}", f"choose {', '.join(views)}")
    return view


def _jobs(
    scenarios: tuple[Path, ...], suite: str | None, folder: Path | None, statements: list[Claim]
) -> tuple[str, list[Job]]:
    """The suite's name and what it runs; files on the command line are a suite of their own, always begun anew."""
    from memprof.measure.machine import card, has_cuda
    from memprof.verify import suite as suites

    if scenarios and suite:
        raise UsageError("scenario files and --suite exclude each other", "drop one of them")
    name = suite or ("h100" if has_cuda() else "cpu")
    if scenarios:
        name = "files"
        jobs = [suites.Job(path.stem, suites.scenario_of(path)) for path in scenarios]
    elif suite == CLAIMS:
        jobs = [job for claim in statements for job in claim.jobs]
    else:
        jobs = suites.jobs(name, folder or suites.SCENARIOS)
        if suite is None and name == "h100":
            jobs = suites.suited(jobs, card())
    needed = sorted({job.scenario.device for job in jobs} - {"cpu"})
    if needed and not has_cuda():
        raise DeviceError(f"no CUDA device is here, which {needed[0]} stands for", "choose --suite cpu, or --replay")
    return name, jobs


def _bounded(jobs: list[Job], limit: str | None, timeout: float | None) -> list[Job]:
    from memprof.units import parse_bytes

    changes: dict[str, Any] = {}
    if limit is not None:
        changes["limit_bytes"] = parse_bytes(limit)
    if timeout is not None:
        changes["time_limit_s"] = timeout
    return [job._replace(**changes) for job in jobs]


def _claims(folder: Path | None) -> list[Claim]:
    from memprof.measure.machine import has_cuda
    from memprof.verify.claims import claims
    from memprof.verify.suite import SCENARIOS

    return claims("h100" if has_cuda() else "cpu", folder or SCENARIOS)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _refuse_unwritable(path: str) -> None:
    try:
        with tempfile.TemporaryFile(dir=Path(path).parent):
            return
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "choose another place") from None

"""Well-known statements about memory and time, each put to the test by one run, or by two beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from memprof.catalog.resolve import find_config
from memprof.engines import architecture_of
from memprof.errors import ConfigError, MemprofError
from memprof.importers import overrides, scenario_file
from memprof.model.claims import Range, Tested
from memprof.model.decode import decode_as
from memprof.model.evidence import Evidence, Prediction
from memprof.model.scenario import Scenario
from memprof.verify.figures import Figure, Seen, figure, seen
from memprof.verify.loading import Format, Loaded, Question
from memprof.verify.process import started
from memprof.verify.suite import SCENARIOS, Job, scenario_in

FOLDER = "claims"
_TIME_LIMIT_S = 300.0
_LIMIT_BYTES = 79 << 30
"""As of the suite ``h100``."""

Machine = Literal["cpu", "h100"]


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement's file: on each kind of machine one scenario, and what is changed before and after in it.

    One about loading says instead as what the scenario's model is saved.
    """

    claim: str
    expected: dict[Figure, Range]
    before: dict[str, str] | None = None
    after: dict[str, str] | None = None
    loads: Format | None = None
    cpu: dict[str, Any]
    h100: dict[str, Any]


class Claim(NamedTuple):
    """A statement on one machine; ``jobs`` are what is run for it, the one before the change first."""

    text: str
    expected: dict[Figure, Range]
    jobs: list[Job]
    loads: tuple[str, Format] | None = None


def claims(machine: Machine, folder: Path = SCENARIOS) -> list[Claim]:
    """Those in a folder of scenarios, by file name.

    Raises:
        ConfigError: there is none, or one is not sound.
    """
    paths = sorted((folder / FOLDER).glob("*.yaml"))
    if not paths:
        raise ConfigError(f"{folder / FOLDER} holds no claims", "name the folder of scenarios with --scenarios")
    return [_claim(path, machine) for path in paths]


def tested(todo: Iterable[Claim], records: Iterable[Evidence]) -> Iterator[Tested]:
    """Each figure of each statement, of the records of its jobs."""
    by_name = {record.name: record for record in records}
    for claim in todo:
        if claim.loads is not None:
            yield from _loaded(claim, *claim.loads)
            continue
        runs = [by_name[job.name] for job in claim.jobs]
        numbers = [_num_parameters(job.scenario) for job in claim.jobs]
        failed = next((f"{run.name} ended with {run.status}: {run.message}" for run in runs if run.status != "ok"), "")
        measured = [seen(run.measured, number) for run, number in zip(runs, numbers, strict=True)]
        predicted = [seen(_prediction(run), number) for run, number in zip(runs, numbers, strict=True)]
        for name, said in claim.expected.items():
            yield Tested(
                claim=claim.text,
                runs=[run.name for run in runs],
                figure=name,
                said=said,
                predicted=_figure(name, predicted),
                measured=None if failed else _figure(name, measured),
                why=failed,
            )


def _claim(path: Path, machine: Machine) -> Claim:
    found = decode_as(_File, scenario_file.read(str(path)), "claim")
    base = found.cpu if machine == "cpu" else found.h100
    sides = {side: fields for side, fields in (("before", found.before), ("after", found.after)) if fields is not None}
    jobs = [
        Job(
            name=f"{FOLDER}/{path.stem}-{side}",
            scenario=scenario_in(overrides.lay_over(base, fields.items()), path.parent),
            time_limit_s=_TIME_LIMIT_S,
            limit_bytes=None if machine == "cpu" else _LIMIT_BYTES,
        )
        for side, fields in sides.items()
    ]
    loads = None if found.loads is None else (str(base["model"]), found.loads)
    return Claim(found.claim, found.expected, jobs, loads)


def _loaded(claim: Claim, model: str, file_format: Format) -> Iterator[Tested]:
    """Measured each time anew; what loading takes of the host is not predicted."""
    config, _ = find_config(model)
    with started("memprof.verify.loading", msgspec.json.encode(Question(config, file_format))) as loading:
        ended = loading.ended(_TIME_LIMIT_S)
    copies = None
    if ended.answer is not None:
        loaded = msgspec.json.decode(ended.answer, type=Loaded)
        copies = loaded.peak_bytes / loaded.weight_bytes
    for name, said in claim.expected.items():
        yield Tested(
            claim=claim.text,
            runs=[],
            figure=name,
            said=said,
            predicted=None,
            measured=figure(name, Seen(copies=copies), None),
            why=f"loading {model} {ended.message}" if copies is None else "",
        )


def _figure(name: Figure, sides: list[Seen]) -> float | None:
    *before, after = sides
    return figure(name, after, before[0] if before else None)


def _prediction(run: Evidence) -> Prediction:
    """The trace engine's, as it runs the model's own code; else the analytic one's."""
    told = [run.predicted.get(engine) for engine in ("trace", "analytic")]
    return next((each for each in told if each is not None and not each.refused), Prediction())


def _num_parameters(scenario: Scenario) -> int | None:
    try:
        return architecture_of(scenario.model, scenario.task).num_parameters
    except MemprofError:
        return None

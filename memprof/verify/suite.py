"""Suites: which scenarios are run on which machine, in which order and how long each may take.

A suite goes on where it stopped: what an earlier run of the same scenario recorded in the same folder is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from memprof.errors import ConfigError, MeasurementError, did_you_mean
from memprof.importers import scenario_file
from memprof.model.decode import decode
from memprof.model.evidence import Evidence
from memprof.model.scenario import Scenario
from memprof.units import parse_bytes
from memprof.verify import store
from memprof.verify.run import TIME_LIMIT_S, run

_FILE = "suites.yaml"


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of a suite: a scenario file beside ``suites.yaml``, how long it may take, what the card is capped to."""

    scenario: str
    time_limit_s: float = TIME_LIMIT_S
    limit: str | None = None


class Job(NamedTuple):
    """One scenario to run."""

    name: str
    scenario: Scenario
    time_limit_s: float = TIME_LIMIT_S
    limit_bytes: int | None = None


def jobs(suite: str, folder: Path) -> list[Job]:
    """The jobs of a suite, most valuable first.

    Raises:
        ConfigError: the folder holds no suites, no such suite, or a scenario that is not sound.
    """
    path = folder / _FILE
    if not path.is_file():
        raise ConfigError(f"{path} is not there", "name scenario files, or the folder with --scenarios")
    suites = msgspec.convert(scenario_file.read(str(path)), dict[str, list[Entry]], strict=False)
    if suite not in suites:
        raise ConfigError(f"there is no suite {suite!r}", did_you_mean(suite, suites) or f"choose {', '.join(suites)}")
    return [
        Job(
            name=Path(entry.scenario).with_suffix("").as_posix(),
            scenario=scenario_of(folder / entry.scenario),
            time_limit_s=entry.time_limit_s,
            limit_bytes=None if entry.limit is None else parse_bytes(entry.limit),
        )
        for entry in suites[suite]
    ]


def scenario_of(path: Path) -> Scenario:
    """The scenario in a file; a model named by a path is looked for beside the file."""
    scenario = decode(scenario_file.read(str(path)))
    beside = path.parent / scenario.model
    return msgspec.structs.replace(scenario, model=str(beside)) if beside.exists() else scenario


def recorded(folder: Path) -> dict[str, Evidence]:
    """Runs that a folder holds, by name; empty where there is none yet."""
    try:
        return {record.name: record for record in store.read_all(folder)}
    except MeasurementError:
        if not folder.is_dir() or not any(folder.rglob("*.json")):
            return {}
        raise


def play(
    todo: list[Job], folder: Path | None, *, again: bool, command: str, progress: Callable[[str], None]
) -> Iterator[Evidence]:
    """Runs jobs one after the other, records each at once, and yields old and new records in order.

    Args:
        todo: what to run.
        folder: where records go; None: they are kept nowhere.
        again: whether what is recorded already is run again.
        command: what the user typed.
        progress: told which job runs.
    """
    before = recorded(folder) if folder is not None and not again else {}
    for number, job in enumerate(todo, 1):
        old = before.get(job.name)
        if old is not None and old.scenario == job.scenario and old.status in ("ok", "oom"):
            progress(f"{number} of {len(todo)}: {job.name}, recorded already")
            yield old
            continue
        progress(f"{number} of {len(todo)}: {job.name}")
        record = run(
            job.scenario, name=job.name, command=command, limit_bytes=job.limit_bytes, time_limit_s=job.time_limit_s
        )
        if folder is not None:
            store.write(record, folder)
        yield record

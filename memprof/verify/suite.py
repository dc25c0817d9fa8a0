"""Suites: which scenarios are run on which machine, in which order, how long each may take, and how one goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

import memprof
from memprof import api
from memprof.errors import ConfigError, MemprofError, ModelError, UnsupportedError, did_you_mean
from memprof.importers import overrides, scenario_file
from memprof.model.consistency import check
from memprof.model.decode import decode, decode_as
from memprof.model.device import Device
from memprof.model.evidence import Evidence
from memprof.model.scenario import Scenario
from memprof.units import parse_bytes
from memprof.verify.journal import Journal
from memprof.verify.run import TIME_LIMIT_S, portable, run

if TYPE_CHECKING:
    from memprof.verify.ranks import Leader

SCENARIOS = Path(memprof.__file__).parent / "scenarios"
"""Those that ship with memprof."""
_FILE = "suites.yaml"
_HOPPER = "sm_90"
_SETTLED = ("ok", "oom", "timeout", "crash")
"""What running again would show again; an error may have been a missing library."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of a suite.

    Attributes:
        scenario: a file beside ``suites.yaml``.
        name: of the record; by default the file's, without its suffix.
        set: single fields that are changed, by dotted name.
        planned_s: how long it should take.
        time_limit_s: after which it counts as hung; by default the suite's.
    """

    scenario: str
    name: str | None = None
    set: dict[str, str] = {}
    planned_s: float | None = None
    time_limit_s: float | None = None


class Suite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Runs, most valuable first; ``limit`` caps the card."""

    runs: tuple[Entry, ...]
    limit: str | None = None
    time_limit_s: float = TIME_LIMIT_S


class Job(NamedTuple):
    """One scenario to run."""

    name: str
    scenario: Scenario
    planned_s: float | None = None
    time_limit_s: float = TIME_LIMIT_S
    limit_bytes: int | None = None


def jobs(name: str, folder: Path = SCENARIOS) -> list[Job]:
    """The jobs of a suite, most valuable first.

    Raises:
        ConfigError: the folder holds no suites, no such suite, or a scenario that is not sound.
    """
    path = folder / _FILE
    if not path.is_file():
        raise ConfigError(f"{path} is not there", "name scenario files, or the folder with --scenarios")
    suites = scenario_file.read(str(path))
    if name not in suites:
        raise ConfigError(f"there is no suite {name!r}", did_you_mean(name, suites) or f"choose {', '.join(suites)}")
    suite = decode_as(Suite, suites[name], f"suite {name}")
    limit_bytes = None if suite.limit is None else parse_bytes(suite.limit)
    return [
        Job(
            name=entry.name or Path(entry.scenario).with_suffix("").as_posix(),
            scenario=scenario_of(folder / entry.scenario, entry.set),
            planned_s=entry.planned_s,
            time_limit_s=entry.time_limit_s or suite.time_limit_s,
            limit_bytes=limit_bytes,
        )
        for entry in suite.runs
    ]


def suited(todo: list[Job], card: Device) -> list[Job]:
    """The jobs of a suite for a card, less those that are known not to fit; a Hopper card takes them as they are."""
    if card.architecture == _HOPPER:
        return todo
    moved = [
        job._replace(scenario=msgspec.structs.replace(job.scenario, device=card.name), limit_bytes=None) for job in todo
    ]
    return [job for job in moved if _may_fit(job.scenario, card)]


def _may_fit(scenario: Scenario, card: Device) -> bool:
    try:
        return card.total_bytes is None or api.allocated(scenario) <= card.total_bytes
    except (UnsupportedError, ModelError):
        return True
    except MemprofError:  # such as a kernel that this card does not have
        return False


def scenario_of(path: Path, fields: dict[str, str] | None = None) -> Scenario:
    """The scenario in a file, some fields set anew."""
    data = overrides.lay_over(scenario_file.read(str(path)), (fields or {}).items())
    return scenario_in(data, path.parent)


def scenario_in(data: dict[str, Any], folder: Path) -> Scenario:
    """The scenario that a file in a folder describes; a model that is named by a path is looked for there."""
    scenario = decode(data)
    check(scenario)
    beside = folder / scenario.model
    return msgspec.structs.replace(scenario, model=str(beside)) if beside.exists() else scenario


def play(
    todo: list[Job],
    journal: Journal,
    *,
    command: str,
    progress: Callable[[str], None],
    leader: Leader | None = None,
) -> Iterator[Evidence]:
    """Runs jobs one after the other, records each at once, and yields old and new records in order.

    Args:
        todo: what to run.
        journal: of what is recorded already, which is not run again.
        command: what the user typed.
        progress: told which job runs.
        leader: of the other ranks that run them; None: this process is alone.
    """
    for number, job in enumerate(todo, 1):
        stated, _ = portable(job.scenario)
        record = journal.records.get(job.name)
        if record is not None and record.scenario == stated and record.status in _SETTLED:
            progress(f"{number} of {len(todo)}: {job.name}, recorded already")
        else:
            progress(f"{number} of {len(todo)}: {job.name}{_planned(todo[number - 1 :])}")
            record = run(
                job.scenario,
                name=job.name,
                command=command,
                limit_bytes=job.limit_bytes,
                time_limit_s=job.time_limit_s,
                leader=leader,
            )
            journal.add(record)
        yield record
    journal.close()


def _planned(left: list[Job]) -> str:
    seconds = [job.planned_s for job in left]
    known = [each for each in seconds if each is not None]
    return f", {sum(known):.0f} s to go" if len(known) == len(seconds) else ""

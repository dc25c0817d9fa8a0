"""From a config to its report: describe each scenario, estimate each once, hold it against its limit and baseline."""

from __future__ import annotations

from typing import NamedTuple

from memprof import __version__
from memprof.check.baseline import Baseline, entry
from memprof.check.config import Config
from memprof.check.estimates import Refused, estimate_all
from memprof.check.outcome import not_modelled, outcome
from memprof.check.scenarios import Described, anchored, describe, settings
from memprof.errors import UnsupportedError
from memprof.model.check_report import STATUSES, CheckReport, Outcome
from memprof.model.result import Result


class Estimated(NamedTuple):
    """A check's scenario and the answer to it."""

    described: Described
    answer: Result | Refused


def estimates(config: Config, engine: str = "analytic") -> list[Estimated]:
    """The answer to each check, in their order.

    Args:
        engine: as for ``api.estimate``. The analytic one answers alike whatever is installed, and runs nobody's code.

    Raises:
        MemprofError: a scenario that cannot be; one that is only not modelled is an answer, too.
    """
    described = [describe(config, index) for index in range(len(config.checks))]
    found = estimate_all((anchored(each.scenario, config) for each in described if each.refused is None), engine)
    answers = [
        found[anchored(each.scenario, config)] if each.refused is None else Refused.of(each.refused)
        for each in described
    ]
    for index, answer in enumerate(answers):
        if isinstance(answer, Refused) and not issubclass(answer.kind, UnsupportedError):
            where = config.document.where(*config.above, "checks", index)
            raise answer.kind(f"{where}: check {config.checks[index].name!r}: {answer.message}", answer.hint)
    return [Estimated(*pair) for pair in zip(described, answers, strict=True)]


def baseline_of(config: Config, answers: list[Estimated]) -> Baseline:
    """What ``--update-baseline`` writes: an entry for each check that has an answer."""
    entries = {
        check.name: entry(answer, settings(described.scenario))
        for check, (described, answer) in zip(config.checks, answers, strict=True)
        if isinstance(answer, Result)
    }
    return Baseline(checks=entries)


def report(config: Config, answers: list[Estimated], baseline: Baseline | None) -> CheckReport:
    """Each check's outcome, and how many there are of each status."""
    entries = {} if baseline is None else baseline.checks
    outcomes: list[Outcome] = []
    for index, (described, answer) in enumerate(answers):
        if isinstance(answer, Refused):
            outcomes.append(not_modelled(config, index, described, answer))
        else:
            outcomes.append(outcome(config, index, described, answer, entries.get(config.checks[index].name)))
    return CheckReport(
        memprof_version=__version__,
        config=config.shown(config.document.path),
        baseline=None if baseline is None else config.shown(config.baseline),
        counts={status: sum(each.status == status for each in outcomes) for status in STATUSES},
        checks=outcomes,
    )

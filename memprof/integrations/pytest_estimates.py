"""What the pytest plugin does for a marked test: estimate its scenario, hold it against the limit, keep the outcome."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import msgspec
import pytest

from memprof.check import fixes
from memprof.check.amounts import amount
from memprof.check.estimates import Refused
from memprof.check.estimates import estimate as answer_to
from memprof.check.evaluate import Finding, Value, against_limit, severity, value_of
from memprof.check.scenarios import settings
from memprof.errors import ConfigError, MemprofError, UnsupportedError
from memprof.integrations.pytest_marks import Demand, Source, asked, scenario_of
from memprof.model.check_report import Fix, Limit, Outcome, Place
from memprof.model.result import Result
from memprof.model.scenario import Scenario
from memprof.views import check_phrases as phrases

PROPERTY = "memprof"
"""Name of the user properties that carry outcomes, as JSON, through reports: to xdist's controller, and into JUnit."""


def hold(item: pytest.Item) -> None:
    """Fails a marked test whose scenario takes too much.

    A mark of the test's own has to name a scenario, or the test to use the fixture; one of its module or class may be
    there for other tests.
    """
    __tracebackhide__ = True
    try:
        marked = asked(item)
        if not marked.names_scenario:
            _check_fixture(item)
            return
        if marked.demand.limit is None:
            raise ConfigError("the mark memprof has no limit", 'add limit="72 GiB" or limit="90 %"')
    except MemprofError as error:
        raise _failure(str(error)) from None
    estimate(item)


def estimate(item: pytest.Item, source: Source | None = None, /, **fields: Any) -> Result:
    """The result of what the marks and the arguments describe together; fails the test where it is over the limit."""
    __tracebackhide__ = True
    try:
        marked = asked(item)
        source = marked.source if source is None else source
        scenario = scenario_of(source, {**marked.fields, **fields}, item.config.rootpath)
        answer = answer_to(scenario, "auto")
        outcome = _outcome(item, scenario, marked.demand, answer)
    except MemprofError as error:
        raise _failure(str(error)) from None
    item.user_properties.append((PROPERTY, msgspec.json.encode(outcome).decode()))
    if outcome.severity == "warning":
        item.warn(pytest.PytestWarning(f"memprof: {phrases.message(outcome)}"))
    if isinstance(answer, Refused) or outcome.severity == "error":
        raise _failure("\n".join([phrases.headline(outcome), *phrases.details(outcome)]))
    return answer


def _check_fixture(item: pytest.Item) -> None:
    """Whether something is estimated for a test that is marked.

    Raises:
        ConfigError: nothing ever would be.
    """
    is_own = any(mark.name == "memprof" for mark in item.own_markers)
    if is_own and "memprof_estimate" not in getattr(item, "fixturenames", ()):
        hint = "add a scenario or model= to the mark, or have the test use the fixture memprof_estimate"
        raise ConfigError("the mark memprof names no scenario", hint)


def _failure(told: str) -> BaseException:
    """A failure that is told without a traceback, which would only show memprof's own code."""
    return pytest.fail.Exception(f"memprof: {told}", pytrace=False)


def _outcome(item: pytest.Item, scenario: Scenario, demand: Demand, answer: Result | Refused) -> Outcome:
    """The answer held against the limit, under the test's name.

    Raises:
        MemprofError: what the scenario says cannot be (that it is only not modelled is an outcome), or the limit.
    """
    earlier = sum(name == PROPERTY for name, _ in item.user_properties)
    path, line, _ = item.location
    common: dict[str, Any] = {
        "name": f"{item.nodeid}#{earlier + 1}" if earlier else item.nodeid,
        "level": "error",
        "place": Place(path=PurePath(path).as_posix(), line=None if line is None else line + 1),
        "device": scenario.device,
        "metric": demand.metric,
        "settings": settings(scenario),
    }
    if isinstance(answer, Refused):
        if not issubclass(answer.kind, UnsupportedError):
            raise answer.kind(answer.message, answer.hint)
        told: dict[str, Any] = {"reasons": [answer.message], "hint": answer.hint}
        return Outcome(**common, **told, status="unknown", severity="error", value_bytes=None)
    value = value_of(answer, demand.metric, demand.context_bytes)
    limit = None if demand.limit is None else amount(demand.limit, answer.device.total_bytes)
    finding = Finding("passed", "limit") if limit is None else against_limit(value, limit, answer)
    return Outcome(
        **common,
        status=finding.status,
        severity=severity(finding.status, "error"),
        value_bytes=value.num_bytes,
        floor_bytes=value.floor_bytes if value.num_bytes is None else None,
        low_bytes=value.low_bytes,
        high_bytes=value.high_bytes,
        limit=limit,
        components=answer.at_peak_bytes,
        fix=_fix(scenario, demand, value, limit) if finding.status == "failed" else None,
        reasons=[finding.reason] if finding.reason else [],
        hint=finding.hint,
        warnings=answer.warnings,
    )


def _fix(scenario: Scenario, demand: Demand, now: Value, limit: Limit | None) -> Fix | None:
    """What would be enough, or comes nearest."""
    if limit is None or limit.num_bytes is None:
        return None

    def value(way: Scenario) -> int | None:
        answer = answer_to(way)
        return (
            None if isinstance(answer, Refused) else value_of(answer, demand.metric, demand.context_bytes).floor_bytes
        )

    return fixes.find(scenario, [], now.floor_bytes, limit.num_bytes, value)

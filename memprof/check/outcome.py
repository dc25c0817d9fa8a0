"""One check's outcome: every demand's finding, the line to blame, and what would help."""

from __future__ import annotations

from memprof.check import fixes
from memprof.check.amounts import amount
from memprof.check.baseline import Entry
from memprof.check.config import Config, Rule
from memprof.check.estimates import Refused, estimate
from memprof.check.evaluate import Finding, Value, against_baseline, against_limit, growth_of, severity, value_of, worst
from memprof.check.scenarios import Described, anchored, changes, settings
from memprof.model.check_report import Change, Fix, Growth, Limit, Outcome, Place
from memprof.model.result import Result
from memprof.model.scenario import Scenario


def not_modelled(config: Config, index: int, described: Described, refused: Refused) -> Outcome:
    """The outcome of a sound scenario that memprof has no answer to."""
    rule = config.rule(index)
    return Outcome(
        name=config.checks[index].name,
        status="unknown",
        level=rule.level,
        severity=severity("unknown", rule.level),
        place=config.place("checks", index),
        device=described.scenario.device,
        metric=rule.metric,
        value_bytes=None,
        reasons=[refused.message],
        hint=refused.hint,
        warnings=list(described.notes),
        settings=settings(described.scenario),
    )


def outcome(config: Config, index: int, described: Described, result: Result, before: Entry | None) -> Outcome:
    """The result held against what the check demands and against its baseline."""
    rule = config.rule(index)
    value = value_of(result, rule.metric, rule.context_bytes)
    limit = None if rule.limit is None else amount(rule.limit, result.device.total_bytes)
    growth = None if before is None else _growth(result, rule, before, described)
    findings = [] if limit is None else [against_limit(value, limit, result)]
    if rule.max_increase is not None:
        findings.append(against_baseline(growth, value, before is not None))
    verdict = worst(findings)
    culprit, fix = None, None
    if verdict.status == "failed":
        culprit, fix = _remedy(anchored(described.scenario, config), rule, value, limit, growth)
    return Outcome(
        name=config.checks[index].name,
        status=verdict.status,
        level=rule.level,
        severity=severity(verdict.status, rule.level),
        place=_blamed(config, index, verdict, culprit),
        device=result.device.name,
        metric=rule.metric,
        value_bytes=value.num_bytes,
        floor_bytes=value.floor_bytes if value.num_bytes is None else None,
        low_bytes=value.low_bytes,
        high_bytes=value.high_bytes,
        limit=limit,
        growth=growth,
        components=result.at_peak_bytes,
        fix=fix,
        reasons=[finding.reason for finding in findings if finding.reason],
        hint=verdict.hint,
        warnings=[*described.notes, *result.warnings],
        settings=settings(described.scenario),
    )


def _growth(result: Result, rule: Rule, before: Entry, described: Described) -> Growth | None:
    changed = changes(before.settings, described)
    return growth_of(result, rule.metric, rule.context_bytes, before, rule.max_increase, changed)


def _target(value: Value, limit: Limit | None, growth: Growth | None) -> int:
    """What the value has to come down to, so that every demand holds."""
    targets = [value.floor_bytes]
    if limit is not None and limit.num_bytes is not None:
        targets.append(limit.num_bytes)
    if growth is not None and growth.allowed is not None and growth.allowed.num_bytes is not None:
        targets.append(value.floor_bytes - growth.increase_bytes + growth.allowed.num_bytes)
    return min(targets)


def _remedy(
    scenario: Scenario, rule: Rule, now: Value, limit: Limit | None, growth: Growth | None
) -> tuple[Change | None, Fix | None]:
    """The change since the baseline that costs most, if there is one, and what would be enough."""

    def value(way: Scenario) -> int | None:
        answer = estimate(way)
        return None if isinstance(answer, Refused) else value_of(answer, rule.metric, rule.context_bytes).floor_bytes

    undone = fixes.undoings(scenario, growth.changes) if growth is not None and growth.increase_bytes > 0 else []
    target_bytes = _target(now, limit, growth)
    fix = fixes.find(scenario, [way for _, way in undone], now.floor_bytes, target_bytes, value)
    return (undone[0][0] if undone else None), fix


def _blamed(config: Config, index: int, verdict: Finding, culprit: Change | None) -> Place:
    """Where the culprit is written; else the demand that is not met, else the check itself."""
    if culprit is not None and culprit.place is not None:
        return culprit.place
    own = verdict.status == "failed" and getattr(config.checks[index], verdict.demand) is not None
    return config.place("checks", index, verdict.demand) if own else config.place("checks", index)

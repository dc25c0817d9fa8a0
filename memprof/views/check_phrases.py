"""The sentences that every view of a check report shares: the value first, then the limit, then why and what helps."""

from __future__ import annotations

from memprof.model.check_report import CheckReport, Growth, Limit, Outcome
from memprof.units import format_bytes, gib
from memprof.views.phrases import spelled

_COUNTED = {"passed": "passed", "warning": "with a warning", "failed": "failed", "unknown": "unknown"}
_LEVELS = {"warning": "warn", "note": "info"}
_METRICS = {"device": "on the device", "reserved": "reserved", "allocated": "allocated"}


def summary(report: CheckReport) -> str:
    """``7 checks: 6 passed, 1 failed``; a failure that fails nothing is said to be one."""
    num = len(report.checks)
    parts = []
    for status, words in _COUNTED.items():
        if not (count := report.counts[status]):  # type: ignore[index]
            continue
        tolerated = [c for c in report.checks if c.status == status in ("failed", "unknown") and c.severity != "error"]
        levels = sorted({_LEVELS[c.severity] for c in tolerated if c.severity in _LEVELS})
        parts.append(f"{count} {words}" + (f" ({len(tolerated)} at level {' or '.join(levels)})" if tolerated else ""))
    return f"{num} check{'' if num == 1 else 's'}: {', '.join(parts)}"


def message(outcome: Outcome) -> str:
    """All that there is to say about a check, in one line."""
    return "; ".join([headline(outcome), *details(outcome)])


def headline(outcome: Outcome) -> str:
    """``86.31 GiB reserved; limit 72.00 GiB: 14.31 GiB too much``, and the same of the baseline."""
    parts = [value(outcome)]
    if outcome.limit is not None:
        parts.append(f"limit {limit(outcome.limit)}{_room(outcome, outcome.limit)}")
    if outcome.growth is not None:
        parts.append(f"baseline {gib(outcome.growth.before_bytes)}: {_growth(outcome.growth)}")
    return "; ".join(parts)


def details(outcome: Outcome) -> list[str]:
    """Why it is not simply passed, the largest component, what changed, what would fix it; nothing of what passed."""
    if outcome.status == "passed":
        return []
    parts = [*outcome.reasons]
    if outcome.hint:
        parts.append(outcome.hint)
    if outcome.status == "failed":
        parts += [*_largest(outcome), *_changes(outcome), *_fix(outcome)]
    return [_one_line(part) for part in parts]


def limit(limit: Limit) -> str:
    """``72.00 GiB``, or ``71.20 GiB (90 %)``."""
    if limit.num_bytes is None:
        return limit.text
    return f"{gib(limit.num_bytes)} ({limit.text})" if "%" in limit.text else gib(limit.num_bytes)


def signed(num_bytes: int) -> str:
    """``+3.10 GiB``."""
    return f"{'+' if num_bytes > 0 else '-' if num_bytes < 0 else ''}{format_bytes(abs(num_bytes))}"


def notes(report: CheckReport) -> list[str]:
    """Each thing that was ignored, assumed or left out, once, after the checks that it holds for."""
    told: dict[str, list[str]] = {}
    for outcome in report.checks:
        for warning in dict.fromkeys(outcome.warnings):
            told.setdefault(_one_line(warning), []).append(outcome.name)
    return [f"{_named(names, len(report.checks))}: {warning}" for warning, names in told.items()]


def value(outcome: Outcome) -> str:
    """``61.20 GiB reserved``, ``at least 43.20 GiB on the device``, ``reserved bytes unknown``."""
    if outcome.value_bytes is not None:
        return f"{gib(outcome.value_bytes)} {_METRICS[outcome.metric]}"
    if outcome.floor_bytes is not None:
        return f"at least {gib(outcome.floor_bytes)} {_METRICS[outcome.metric]}"
    return f"{outcome.metric} bytes unknown"


def place(outcome: Outcome) -> str:
    """``memprof.yaml:12``."""
    where = outcome.place
    return where.path if where.line is None else f"{where.path}:{where.line}"


def _growth(growth: Growth) -> str:
    """``3.10 GiB (5.2 %) more, 1.20 GiB (2 %) allowed``."""
    increase, allowed = growth.increase_bytes, growth.allowed
    share = f" ({100 * abs(increase) / growth.before_bytes:.1f} %)" if growth.before_bytes else ""
    words = f"{format_bytes(abs(increase))}{share} {'more' if increase > 0 else 'less'}" if increase else "unchanged"
    if increase <= 0 or allowed is None or allowed.num_bytes is None:
        return words
    return f"{words}, {format_bytes(allowed.num_bytes)} ({allowed.text}) allowed"


def _named(names: list[str], num_checks: int) -> str:
    if len(names) == num_checks:
        return "all checks"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _room(outcome: Outcome, limit: Limit) -> str:
    size = outcome.value_bytes if outcome.value_bytes is not None else outcome.floor_bytes
    if size is None or limit.num_bytes is None:
        return ""
    room = limit.num_bytes - size
    if room < 0:
        return f": {format_bytes(-room)} too much"
    return "" if outcome.value_bytes is None else f": {format_bytes(room)} to spare"


def _largest(outcome: Outcome) -> list[str]:
    grown = outcome.growth.components if outcome.growth is not None else {}
    parts = []
    if outcome.components:
        name, size = max(outcome.components.items(), key=lambda part: part[1])
        share = 100 * size / max(sum(outcome.components.values()), 1)
        parts.append(f"largest: {spelled(name)} {gib(size)} ({share:.0f} % of what is allocated)")
    if any(delta > 0 for delta in grown.values()):
        name, delta = max(grown.items(), key=lambda part: part[1])
        parts.append(f"grew most: {spelled(name)} {signed(delta)}")
    return parts


def _changes(outcome: Outcome) -> list[str]:
    changes = outcome.growth.changes if outcome.growth is not None else []
    told = [f"{change.field} {change.before} -> {change.after}" for change in changes]
    return [f"changed: {', '.join(told)}"] if told else []


def _fix(outcome: Outcome) -> list[str]:
    fix = outcome.fix
    now = outcome.value_bytes if outcome.value_bytes is not None else outcome.floor_bytes
    if fix is None or now is None:
        return []
    words = f"{fix.name} would take {gib(fix.value_bytes)}, {format_bytes(now - fix.value_bytes)} less"
    return [f"fix: {words}" if fix.is_enough else f"nearest, but not enough: {words}"]


def _one_line(text: str) -> str:
    """Names and settings come from files: what they hold cannot start a line, where CI would read it as a command."""
    return "".join(letter if letter.isprintable() else " " for letter in text)

"""``memprof diff`` for people: the answer first, then what changed, then which settings did it."""

from __future__ import annotations

import msgspec

from memprof.model.comparison import Comparison, Pair
from memprof.units import format_bytes, gib
from memprof.views import table
from memprof.views.phrases import spelled
from memprof.views.terminal import Terminal

_SHOWN = 15


def render(comparison: Comparison, terminal: Terminal) -> str:
    """The comparison as text."""
    parts = [answer(comparison) + "\n", f"{names_line(comparison)}\n"]
    for title, pairs in sections(comparison):
        rows = [cells(pair) for pair in pairs[:_SHOWN]]
        parts.append(f"{title}\n{table.render(('', 'before', 'after', 'change'), rows, terminal, numbers=(1, 2, 3))}")
        if len(pairs) > _SHOWN:
            parts[-1] += f"{len(pairs) - _SHOWN} smaller changes are left out\n"
    if comparison.settings:
        settings = [(setting.name, value(setting.before), value(setting.after)) for setting in comparison.settings]
        parts.append("Settings that differ\n" + table.render(("", "before", "after"), settings, terminal, numbers=()))
    return "\n".join(parts)


def answer(comparison: Comparison) -> str:
    """``allocated 120.87 GiB less: 194.06 GiB before, 73.19 GiB after (-62.3 %)``: the widest number both know."""
    known = [pair for pair in comparison.numbers if pair.change_bytes is not None]
    if not known:
        return "the two have no number in common"
    widest = known[-1]
    assert widest.before_bytes is not None
    assert widest.after_bytes is not None
    change = widest.after_bytes - widest.before_bytes
    beside = f"{gib(widest.before_bytes)} before, {gib(widest.after_bytes)} after"
    if not change:
        return f"{widest.name} the same: {gib(widest.after_bytes)}"
    share = f" ({percent(widest)})" if widest.before_bytes else ""
    return f"{widest.name} {format_bytes(abs(change))} {'more' if change > 0 else 'less'}: {beside}{share}"


def names_line(comparison: Comparison) -> str:
    """Which two are compared."""
    return f"before: {comparison.before} ({comparison.kinds[0]}), after: {comparison.after} ({comparison.kinds[1]})"


def sections(comparison: Comparison) -> list[tuple[str, list[Pair]]]:
    """Titles and pairs, named for people; those without any are left out."""
    known = [pair for pair in comparison.numbers if (pair.before_bytes, pair.after_bytes) != (None, None)]
    named = [
        ("Highest", _spelled(known)),
        ("Components at the peak", _spelled(comparison.components)),
        ("Phases", _spelled(comparison.phases)),
        ("Modules at the peak", comparison.modules),
    ]
    return [(title, pairs) for title, pairs in named if pairs]


def cells(pair: Pair) -> tuple[str, str, str, str]:
    """(name, before, after, change); a dash where a result does not say."""
    change = pair.change_bytes
    shown = "-" if change is None else f"{'+' if change > 0 else '-' if change < 0 else ''}{format_bytes(abs(change))}"
    return pair.name, _size(pair.before_bytes), _size(pair.after_bytes), shown


def percent(pair: Pair) -> str:
    """``-62.3 %`` of what it was before."""
    return f"{100 * (pair.change_bytes or 0) / max(pair.before_bytes or 0, 1):+.1f} %"


def value(setting: object) -> str:
    """A setting's value as a scenario file writes it."""
    return "none" if setting is None else str(setting)


def _spelled(pairs: list[Pair]) -> list[Pair]:
    return [msgspec.structs.replace(pair, name=spelled(pair.name)) for pair in pairs]


def _size(num_bytes: int | None) -> str:
    return "-" if num_bytes is None else format_bytes(num_bytes)

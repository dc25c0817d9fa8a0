"""The baseline: a small JSON file, made to be committed, with the bytes of each check by component."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from memprof import __version__
from memprof.errors import ConfigError
from memprof.importers.documents import read_text
from memprof.model.result import Result
from memprof.units import format_bytes, gib

SCHEMA_VERSION = 1
MAX_FILE_BYTES = 4 << 20


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One check as it was: bytes by metric and by component, and the settings that are not defaults."""

    metrics: dict[str, int | None]
    components: dict[str, int]
    settings: dict[str, Any]


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Entries by the name of their check."""

    schema_version: int = SCHEMA_VERSION
    memprof_version: str = __version__
    checks: dict[str, Entry] = {}


def entry(result: Result, settings: dict[str, Any]) -> Entry:
    """What a result leaves in the baseline."""
    peak = result.peak
    metrics = {"allocated": peak.allocated_bytes, "reserved": peak.reserved_bytes, "device": peak.device_bytes}
    return Entry(metrics=metrics, components=result.at_peak_bytes, settings=settings)


def read(path: Path) -> Baseline | None:
    """The baseline at ``path``; None where there is no such file.

    Raises:
        ConfigError: it is none, or one of another schema.
    """
    if not path.exists():
        return None
    text = read_text(str(path), what="baseline", limit=MAX_FILE_BYTES)
    hint = "remove it, then write it anew with memprof check --update-baseline"
    try:
        baseline = msgspec.json.decode(text, type=Baseline)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no baseline: {error}", hint) from None
    if baseline.schema_version != SCHEMA_VERSION:
        raise ConfigError(f"{path} has schema_version {baseline.schema_version}, not {SCHEMA_VERSION}", hint)
    return baseline


def encode(baseline: Baseline) -> str:
    """The file's text: keys in order, so that it changes where a figure does and nowhere else."""
    return msgspec.json.format(msgspec.json.encode(baseline, order="sorted"), indent=2).decode() + "\n"


def component_growth(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Bytes by which each component differs, the largest growth first."""
    deltas = {name: after.get(name, 0) - before.get(name, 0) for name in before | after}
    return {name: delta for name, delta in sorted(deltas.items(), key=lambda part: -part[1]) if delta}


def difference(before: Baseline | None, after: Baseline) -> list[str]:
    """A line for each check that is new, gone or takes other bytes, and below it one for each component that does."""
    old = {} if before is None else before.checks
    lines = []
    for name in sorted(old | after.checks):
        was, now = old.get(name), after.checks.get(name)
        if was is None or now is None:
            lines.append(f"- {name}" if now is None else f"+ {name}: {_sizes(now)}")
        elif was != now:
            lines.append(f"~ {name}: {_sizes(was)} -> {_sizes(now)}")
            for part, delta in component_growth(was.components, now.components).items():
                lines.append(f"    {part.replace('_', ' ')} {'+' if delta > 0 else '-'}{format_bytes(abs(delta))}")
    return lines


def _sizes(entry: Entry) -> str:
    return ", ".join(f"{gib(size)} {metric}" for metric, size in entry.metrics.items() if size is not None)

"""What the marks of a test ask for: a scenario, and the limit that it is held against."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memprof.errors import ConfigError, did_you_mean
from memprof.importers import scenario_file
from memprof.importers.overrides import lay_over
from memprof.model.check_report import Metric
from memprof.model.decode import decode, decode_as
from memprof.model.scenario import Scenario, to_builtins
from memprof.units import parse_bytes

Source = str | os.PathLike[str] | Mapping[str, Any] | Scenario
"""A scenario file, whose path is relative to pytest's root; the fields of a scenario; or one that was built."""


class Demand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a mark says besides the scenario; see ``memprof.check.config`` for the meaning of each."""

    limit: str | None = None
    metric: Metric = "device"
    context: str | None = None

    @property
    def context_bytes(self) -> int | None:
        return None if self.context is None else parse_bytes(self.context)


_KNOWN = ("scenario", *Demand.__struct_fields__, *Scenario.__struct_fields__)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """All marks of a test together: a module's, a class's and its own, the closest one winning."""

    demand: Demand
    source: Source | None
    fields: dict[str, Any]

    @property
    def names_scenario(self) -> bool:
        return self.source is not None or "model" in self.fields


def asked(item: pytest.Item) -> Asked:
    """What the test's marks say.

    Raises:
        ConfigError: one of them names two scenarios, or says what no scenario and no limit has.
    """
    source: Source | None = None
    given: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("memprof"))):
        if len(mark.args) + ("scenario" in mark.kwargs) > 1:
            raise ConfigError("the mark memprof names two scenarios", "keep one; single fields are given by name")
        source = mark.args[0] if mark.args else mark.kwargs.get("scenario", source)
        given |= mark.kwargs
    for name in given:
        if name.partition(".")[0] not in _KNOWN:
            hint = did_you_mean(name, _KNOWN) or f"it knows {', '.join(_KNOWN)}"
            raise ConfigError(f"the mark memprof knows no {name!r}", hint)
    given.pop("scenario", None)
    demand = {name: given.pop(name) for name in Demand.__struct_fields__ if name in given}
    return Asked(demand=decode_as(Demand, demand, "mark"), source=source, fields=given)


def scenario_of(source: Source | None, fields: Mapping[str, Any], root: Path) -> Scenario:
    """The scenario that a source and single fields describe; a mapping among the fields beats only what it names.

    Raises:
        ConfigError: the file cannot be read, or what it and the fields say cannot be.
    """
    if isinstance(source, str | os.PathLike):
        data = scenario_file.read(str(root / source))
    else:
        data = to_builtins(source) if isinstance(source, Scenario) else dict(source or {})
    scenario = decode(lay_over(data, _dotted(fields)))
    beside = root / scenario.model
    return msgspec.structs.replace(scenario, model=str(beside)) if beside.exists() else scenario


def _dotted(fields: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """``batch.sequence_length`` of ``batch={"sequence_length": ...}``."""
    return [
        pair
        for name, value in fields.items()
        for pair in (
            [(f"{name}.{key}", v) for key, v in value.items()] if isinstance(value, Mapping) else [(name, value)]
        )
    ]

"""What would bring a check back under its limit: the change that is the least to make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from memprof import api
from memprof.alternatives import other_ways
from memprof.errors import MemprofError
from memprof.importers.overrides import lay_over
from memprof.model.check_report import Change, Fix
from memprof.model.decode import decode
from memprof.model.scenario import Scenario, to_builtins

_TRIED = 3
"""Ways that are played through the allocator, of those whose allocated bytes are few enough."""


class Way(NamedTuple):
    """Another way to run the scenario, and its allocated bytes."""

    name: str
    change: dict[str, Any]
    scenario: Scenario
    num_bytes: int


def undoings(scenario: Scenario, changes: Iterable[Change]) -> list[tuple[Change, Way]]:
    """Each change of the scenario, beside the scenario without it; the one that costs most first."""
    found = []
    for change in changes:
        name = f"{change.field} back at {change.before}"
        found += [(change, way) for way in _changed(scenario, [(name, {change.field: change.before})])]
    return sorted(found, key=lambda item: item[1].num_bytes)


def find(
    scenario: Scenario, undone: Iterable[Way], target_bytes: int, value: Callable[[Scenario], int | None]
) -> Fix | None:
    """The first way whose value is at most the target; else the smallest, where it is an improvement.

    Args:
        scenario: what takes too much.
        undone: ways that are tried first.
        target_bytes: what the value has to come down to.
        value: bytes of a scenario in the check's metric, None where it is refused.
    """
    ways = [*undone, *_changed(scenario, _steps(scenario)), *_others(scenario)]
    for way in [way for way in ways if way.num_bytes <= target_bytes][:_TRIED]:
        num_bytes = value(way.scenario)
        if num_bytes is not None and num_bytes <= target_bytes:
            return Fix(name=way.name, change=way.change, value_bytes=num_bytes, is_enough=True)
    least = min(ways, key=lambda way: way.num_bytes, default=None)
    now, then = value(scenario), None if least is None else value(least.scenario)
    if least is None or now is None or then is None or then >= now:
        return None
    return Fix(name=least.name, change=least.change, value_bytes=then, is_enough=then <= target_bytes)


def _steps(scenario: Scenario) -> Iterator[tuple[str, dict[str, Any]]]:
    """Single changes that leave the model, its parallelism and what it learns as they are."""
    batch, training = scenario.batch, scenario.mode == "train"
    if training and scenario.checkpointing == "none":
        yield "full activation checkpointing", {"checkpointing": "full"}
    if training and batch.micro_batch_size % 2 == 0:
        halved = {
            "batch.micro_batch_size": batch.micro_batch_size // 2,
            "batch.gradient_accumulation_steps": batch.gradient_accumulation_steps * 2,
        }
        yield "half the micro-batch and twice the accumulation", halved
    if training and scenario.optimizer.name in ("adam", "adamw"):
        yield "8-bit AdamW", {"optimizer.name": "adamw-8bit"}
        yield "8-bit AdamW and full checkpointing", {"optimizer.name": "adamw-8bit", "checkpointing": "full"}


def _changed(scenario: Scenario, changes: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Way]:
    """The scenario with each of some changes; what memprof refuses is left out."""
    for name, change in changes:
        with suppress(MemprofError):
            way = decode(lay_over(to_builtins(scenario), change.items()))
            yield Way(name, change, way, api.allocated(way))


def _others(scenario: Scenario) -> Iterator[Way]:
    for name, change, way in other_ways(scenario):
        with suppress(MemprofError):
            yield Way(name, change, way, api.allocated(way))

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
    """Each change but that of the device, beside the scenario without it; the one that costs most first."""
    found = []
    for change in changes:
        if change.field == "device":
            continue
        name = f"{change.field} back at {change.before}"
        found += [(change, way) for way in _changed(scenario, [(name, {change.field: change.before})])]
    return sorted(found, key=lambda item: item[1].num_bytes)


def find(
    scenario: Scenario,
    undone: Iterable[Way],
    now_bytes: int,
    target_bytes: int,
    value: Callable[[Scenario], int | None],
) -> Fix | None:
    """The first way whose value is at most the target; else the smallest, where it is an improvement.

    Args:
        scenario: what takes too much.
        undone: ways that are tried first.
        now_bytes: its value.
        target_bytes: what the value has to come down to.
        value: bytes of a scenario in the check's metric, None where it is refused.
    """
    ways = [*undone, *_changed(scenario, _steps(scenario)), *_others(scenario)]
    for way in [way for way in ways if way.num_bytes <= target_bytes][:_TRIED]:
        num_bytes = value(way.scenario)
        if num_bytes is not None and num_bytes <= target_bytes:
            return Fix(name=way.name, change=way.change, value_bytes=num_bytes, is_enough=True)
    if not ways:
        return None
    least = min(ways, key=lambda way: way.num_bytes)
    num_bytes = value(least.scenario)
    if num_bytes is None or num_bytes >= now_bytes:
        return None
    return Fix(name=least.name, change=least.change, value_bytes=num_bytes, is_enough=num_bytes <= target_bytes)


def _steps(scenario: Scenario) -> Iterator[tuple[str, dict[str, Any]]]:
    """Small changes that leave the model and what it learns as they are."""
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
    if scenario.parallelism.strategy in ("fsdp", "zero1", "zero2", "zero3"):
        yield "twice the GPUs", {"parallelism.data": scenario.parallelism.data * 2}


def _changed(scenario: Scenario, changes: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Way]:
    """The scenario with each of some changes; what memprof refuses is left out."""
    for name, change in changes:
        with suppress(MemprofError):
            way = decode(lay_over(to_builtins(scenario), change.items()))
            yield Way(name, change, way, api.allocated(way))


def _others(scenario: Scenario) -> Iterator[Way]:
    """Ways to run the model on one GPU; no help to those who have many."""
    for name, change, way in other_ways(scenario) if scenario.parallelism.strategy == "none" else ():
        if way.mode == scenario.mode:
            with suppress(MemprofError):
                yield Way(name, change, way, api.allocated(way))

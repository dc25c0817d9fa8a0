"""Which engine plays a scenario, and what each of them says of it in one shape; ``api`` makes the Result of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import msgspec

from memprof.analytic import engine as analytic
from memprof.catalog.resolve import resolve
from memprof.errors import ConfigError, ModelError, UnsupportedError
from memprof.model.architecture import Architecture
from memprof.model.result import Evidence
from memprof.model.scenario import Scenario
from memprof.model.timeline import Timeline
from memprof.semantics.device import Semantics
from memprof.semantics.lora import target_modules
from memprof.semantics.optimizers import resolve_implementation

if TYPE_CHECKING:
    from memprof.analytic.step import Played

Engine = Literal["analytic", "trace"]
Progress = Callable[[str], None]

_ANALYTIC_BASIS = "ops equal to real CPU runs"
_TRACED_BASIS = (
    "the real model, optimizer and library code on fake tensors, equal to real CPU runs; CUDA's kernels by rules read"
    " off recorded GPU runs"
)
_PAIRED = ("dpo", "ppo", "grpo", "reward")
"""Preference and reward trainers score two answers, or a policy beside a reference."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine says.

    Attributes:
        scenario: with every default that depends on the model or the device spelled out.
        left_out: what is known to be missing from the Timeline.
        architecture, played: the analytic engine's; None of another's.
        torch: version that ran; None where none did.
    """

    engine: Engine
    scenario: Scenario
    timeline: Timeline
    num_parameters: int
    num_trainable: int
    evidence: Evidence
    left_out: tuple[str, ...] = ()
    architecture: Architecture | None = None
    played: Played | None = None
    torch: str | None = None


def answer(
    scenario: Scenario, semantics: Semantics, engine: str, *, online: bool = False, progress: Progress | None = None
) -> Answer:
    """Plays a scenario: ``auto`` is the analytic engine where it models the model and the scenario, else the trace.

    Raises:
        MemprofError: the scenario names what is not known or not modelled.
    """
    if scenario.task in _PAIRED:
        raise UnsupportedError(
            f"a step of task {scenario.task} runs more than one forward, which no engine models yet",
            "estimate causal-lm of the batch that goes through the model at once, or trace a factory of the whole step",
        )
    if engine == "trace":
        return _traced(scenario, semantics, online, progress)
    try:
        return _analysed(scenario, semantics, online)
    except (UnsupportedError, ModelError) as error:
        no_such_model = isinstance(error, ModelError) and not (online or os.path.exists(scenario.model))
        if engine == "analytic" or no_such_model:
            raise
        refusal = error
    from memprof.trace.scope import refuse_untraced

    try:
        refuse_untraced(scenario)
    except UnsupportedError:
        raise refusal from None  # of two refusals the shorter way's says more
    try:
        return _traced(scenario, semantics, online, progress)
    except _NoTorchError:
        raise type(refusal)(
            str(refusal), "or let the trace engine run the model itself: pip install 'memprof-gpu[torch]'"
        ) from None


def architecture_of(name: str, task: str | None, online: bool = False) -> Architecture:
    """Files are read anew each time, as they can change; the catalog cannot."""
    return resolve(name, task, online) if os.path.exists(name) else _remembered(name, task, online)


def resolved(scenario: Scenario, architecture: Architecture, semantics: Semantics) -> Scenario:
    """The scenario with every default that depends on the model or the device spelled out."""
    replace = msgspec.structs.replace
    batch = replace(scenario.batch, sequence_length=analytic.sequence_length(architecture, scenario))
    optimizer = scenario.optimizer
    if scenario.mode == "train":
        optimizer = replace(optimizer, implementation=resolve_implementation(optimizer, semantics.kind))
    adapter = scenario.adapter
    if adapter is not None:
        adapter = replace(adapter, target_modules=target_modules(architecture.model_type, adapter.target_modules))
    return replace(scenario, task=architecture.task, batch=batch, optimizer=optimizer, adapter=adapter)


@lru_cache(maxsize=64)
def _remembered(name: str, task: str | None, online: bool) -> Architecture:
    return resolve(name, task, online)


def _analysed(scenario: Scenario, semantics: Semantics, online: bool) -> Answer:
    architecture = architecture_of(scenario.model, scenario.task, online)
    scenario = resolved(scenario, architecture, semantics)
    played = analytic.play(architecture, scenario, semantics)
    return Answer(
        engine="analytic",
        scenario=scenario,
        timeline=played.timeline,
        num_parameters=architecture.num_parameters,
        num_trainable=played.num_trainable,
        evidence=Evidence(rung="analytic", basis=_ANALYTIC_BASIS),
        left_out=tuple(played.unknown),
        architecture=architecture,
        played=played,
    )


class _NoTorchError(ConfigError):
    """The trace engine's own dependency is missing."""


def _traced(scenario: Scenario, semantics: Semantics, online: bool, progress: Progress | None) -> Answer:
    from memprof.trace.scope import refuse_untraced

    refuse_untraced(scenario)
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise _NoTorchError(
            f"the trace engine runs the real model, and {error.name} is not installed",
            "pip install 'memprof-gpu[torch]'",
        ) from None
    from memprof.trace.engine import play
    from memprof.workload.scenario import complete

    scenario, config = complete(scenario, semantics, online)
    traced = play(scenario, config, semantics, progress or (lambda _: None))
    return Answer(
        engine="trace",
        scenario=scenario,
        timeline=traced.timeline,
        num_parameters=traced.num_parameters,
        num_trainable=traced.num_trainable,
        evidence=Evidence(rung="traced", basis=_TRACED_BASIS),
        left_out=traced.left_out,
        torch=str(torch.__version__),
    )

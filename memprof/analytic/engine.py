"""The analytic engine's front door: a scenario becomes a played step, or a refusal that says why."""

from __future__ import annotations

from importlib import import_module

import msgspec

from memprof.analytic.parameters import Loading
from memprof.analytic.step import Forward, Played, Setting, Step
from memprof.errors import ConfigError, UnsupportedError
from memprof.model.architecture import Architecture
from memprof.model.scenario import Scenario
from memprof.semantics.device import Semantics
from memprof.semantics.lora import check_targets, target_modules
from memprof.semantics.optimizers import optimizer_rule
from memprof.semantics.precision import plan
from memprof.semantics.quantization import head_modules

# Module of ``families`` by ``model_type``; only the one that is asked for is imported.
FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "llama", "qwen3": "llama", "gpt2": "gpt2"}
_TRACE = "choose a llama, mistral, qwen2, qwen3 or gpt2 model"


__all__ = ["Played", "knows", "play", "sequence_length"]


def knows(model_type: str) -> bool:
    """Whether the engine has this family's program."""
    return model_type in FAMILIES


def play(architecture: Architecture, scenario: Scenario, semantics: Semantics) -> Played:
    """Plays the scenario's step.

    Raises:
        UnsupportedError: the engine does not model a part of the scenario.
        ConfigError: the model and the scenario contradict each other.
    """
    return Step(setting(architecture, scenario, semantics)).play()


def setting(architecture: Architecture, scenario: Scenario, semantics: Semantics) -> Setting:
    """Everything that the step depends on, looked up and checked."""
    refuse_unmodelled(architecture, scenario)
    rows = plan(scenario.precision, scenario.parallelism.strategy)
    training = scenario.mode == "train"
    heads = head_modules(architecture)
    targets = None
    adapter = scenario.adapter
    if adapter is not None:
        targets = target_modules(architecture.model_type, adapter.target_modules)
        check_targets(architecture, targets, heads)
    compute = rows.compute if rows.compute != "float32" else "float32"
    loading = Loading(
        weight_dtype=compute if scenario.quantization and compute != "float32" else rows.weights,
        compute_dtype=compute,
        quantization=scenario.quantization,
        targets=targets,
        rank=adapter.rank if adapter else 0,
        adapter_dropout=adapter.dropout if adapter else 0.0,
        heads=heads,
        prepared=training and scenario.quantization is not None,
    )
    rule = None
    if training:
        trained_dtype = "float32" if adapter is not None else rows.weights
        rule = optimizer_rule(scenario.optimizer, semantics.kind, trained_dtype)
    if scenario.parallelism.strategy.startswith("zero"):
        scenario = _with_zero(architecture, scenario)
    return Setting(
        architecture=architecture,
        scenario=scenario,
        semantics=semantics,
        plan=rows,
        loading=loading,
        optimizer=rule,
        forward=_forward(architecture.model_type),
        head=_head_weight(architecture),
        sequence_length=sequence_length(architecture, scenario),
    )


def _with_zero(architecture: Architecture, scenario: Scenario) -> Scenario:
    """The scenario with the sizes of ZeRO's buffers."""
    from memprof.semantics.zero import resolved

    hidden_size = architecture.config.get("hidden_size") or architecture.config.get("n_embd")
    parallelism = msgspec.structs.replace(scenario.parallelism, zero=resolved(scenario.parallelism.zero, hidden_size))
    return msgspec.structs.replace(scenario, parallelism=parallelism)


def _forward(model_type: str) -> Forward:
    forward: Forward = import_module(f"memprof.analytic.families.{FAMILIES[model_type]}").forward
    return forward


def sequence_length(architecture: Architecture, scenario: Scenario) -> int:
    """As asked; else 2048, or what the model's positions leave beside new tokens where that is less.

    Raises:
        ConfigError: longer than the model's positions.
    """
    positions = architecture.config.get("max_position_embeddings") or architecture.config.get("n_positions")
    asked, new_tokens = scenario.batch.sequence_length, scenario.batch.new_tokens or 0
    if asked is None:
        asked = max(1, min(2048, positions - new_tokens)) if positions else 2048
    total = asked + new_tokens
    if positions and total > positions:
        tokens = f"{asked}" if total == asked else f"{asked} + {scenario.batch.new_tokens} new tokens"
        raise ConfigError(
            f"batch.sequence_length {tokens} is beyond the {positions} positions of {architecture.name}",
            f"choose at most {positions}, or a model with a longer context",
        )
    return asked


def _head_weight(architecture: Architecture) -> str:
    names = [p.name for stage in architecture.stages if not stage.name for p in stage.parameters]
    if "lm_head.weight" in names:
        return "lm_head.weight"
    return next(name for name in names if name.endswith(("embed_tokens.weight", "wte.weight")))


def refuse_unmodelled(architecture: Architecture, scenario: Scenario) -> None:
    """One error for each thing that a scenario can say and this engine does not model.

    Raises:
        UnsupportedError: always says which field, and what to do.
    """
    if not knows(architecture.model_type):
        raise UnsupportedError(f"the analytic engine has no program for {architecture.model_type} models", _TRACE)
    if architecture.task != "causal-lm":
        raise UnsupportedError(f"the analytic engine does not model the task {architecture.task}", _TRACE)
    parallelism = scenario.parallelism
    for degree in ("tensor", "pipeline", "context", "expert"):
        if getattr(parallelism, degree) > 1:
            raise UnsupportedError(
                f"the analytic engine does not model parallelism.{degree} > 1", "leave it at 1 and shard with fsdp"
            )
    unmodelled = {
        "compile": scenario.compile is not None,
        "offload": bool(scenario.offload),
        "loss fused": scenario.loss == "fused",
        f"loss chunked under {parallelism.strategy}": scenario.loss == "chunked"
        and parallelism.strategy.startswith("zero"),
        "selective checkpointing": scenario.checkpointing not in ("none", "full"),
        "loop.keep_outputs with accumulated gradients": scenario.loop.keep_outputs
        and scenario.batch.gradient_accumulation_steps > 1,
        "batch.image_size and target_length": bool(scenario.batch.image_size or scenario.batch.target_length),
        f"{scenario.quantization} weights sharded by {parallelism.strategy}": scenario.quantization is not None
        and parallelism.strategy in ("fsdp", "hsdp", "zero3"),
        "parallelism in inference": scenario.mode == "inference" and parallelism.strategy != "none",
    }
    for what, asked in unmodelled.items():
        if asked:
            raise UnsupportedError(f"the analytic engine does not model {what} yet", "leave it out")

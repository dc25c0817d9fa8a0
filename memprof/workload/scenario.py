"""What a scenario leaves open, and the model that it names, for the engines that run real code."""

from __future__ import annotations

from typing import Any

import msgspec

from memprof.catalog.resolve import find_config, is_factory
from memprof.errors import ConfigError
from memprof.model.scenario import Scenario
from memprof.semantics.device import Semantics
from memprof.semantics.optimizers import resolve_implementation

_POSITIONS = ("max_position_embeddings", "n_positions")
_SUFFIXES = {
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForMaskedLM": "masked-lm",
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
    "ForImageClassification": "image-classification",
    "ForConditionalGeneration": "seq2seq-lm",
}


def complete(scenario: Scenario, semantics: Semantics, online: bool) -> tuple[Scenario, dict[str, Any] | None]:
    """The scenario with every default spelled out, and the model's config; None for a factory.

    Raises:
        MemprofError: no such model, or one that cannot be as long as asked.
    """
    config, task = (None, None) if is_factory(scenario.model) else find_config(scenario.model, online)
    if config is not None:
        task = scenario.task or _own_task(config) or task
    batch = msgspec.structs.replace(scenario.batch, sequence_length=_sequence_length(scenario, config))
    optimizer = scenario.optimizer
    if scenario.mode == "train":
        optimizer = msgspec.structs.replace(optimizer, implementation=resolve_implementation(optimizer, semantics.kind))
    return msgspec.structs.replace(
        scenario, task=task or scenario.task or "custom", batch=batch, optimizer=optimizer
    ), config


def _own_task(config: dict[str, Any]) -> str | None:
    """What the config's own class is for; None where it names none that memprof has a word for."""
    for name in config.get("architectures") or ():
        for suffix, task in _SUFFIXES.items():
            if name.endswith(suffix):
                return task
        return "custom"
    return None


def _sequence_length(scenario: Scenario, config: dict[str, Any] | None) -> int:
    """As asked; else 2048, or what the model's positions leave beside new tokens where that is less.

    Raises:
        ConfigError: longer than the model's positions.
    """
    positions = _positions(config) if config is not None else None
    asked, new_tokens = scenario.batch.sequence_length, scenario.batch.new_tokens or 0
    if asked is None:
        asked = 2048 if positions is None else max(1, min(2048, positions - new_tokens))
    if positions is not None and asked + new_tokens > positions:
        raise ConfigError(
            f"batch.sequence_length {asked + new_tokens} is beyond the {positions} positions of {scenario.model}",
            f"choose at most {positions}, new tokens included, or a model with a longer context",
        )
    return asked


def _positions(config: dict[str, Any]) -> int | None:
    """Of a text model, its library's defaults filled in; None where there is no such limit."""
    from memprof.workload.huggingface import config_of

    real = config_of(config).get_text_config(decoder=True)
    found = [getattr(real, key, None) for key in _POSITIONS]
    return next((count for count in found if isinstance(count, int) and count > 0), None)

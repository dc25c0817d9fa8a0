"""Parameter layouts: which parameters a family of models has, by name and shape, from its config."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from memprof.catalog.architectures.family import Family, ties
from memprof.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    from memprof.catalog.architectures.parts import Stages

# Module of this package by ``model_type``; only the one that is asked for is imported.
FAMILIES = {
    "llama": "llama", "mistral": "llama", "qwen2": "llama", "qwen3": "llama", "granite": "llama", "phi3": "llama",
    "smollm3": "llama", "gemma": "gemma", "gemma2": "gemma", "gemma3_text": "gemma",
    "mixtral": "mixture", "qwen3_moe": "mixture",
    "deepseek_v2": "deepseek", "deepseek_v3": "deepseek",
    "gpt2": "gpt2", "gpt_bigcode": "gpt_bigcode", "gpt_neo": "gpt_neo", "gpt_neox": "gpt_neox",
    "opt": "opt", "phi": "phi", "falcon": "falcon", "starcoder2": "starcoder2", "stablelm": "stablelm",
    "bert": "bert", "roberta": "bert", "megatron-bert": "bert", "distilbert": "distilbert",
    "t5": "t5", "vit": "vit",
}  # fmt: skip

# A preference or reward trainer's model is a plain one with this head.
_HEADS = {"dpo": "causal-lm", "grpo": "causal-lm", "ppo": "causal-lm", "reward": "sequence-classification"}


class Layout(msgspec.Struct, frozen=True):
    """A config with every default filled in, and the parameters that follow from it."""

    config: dict[str, Any]
    task: str
    stages: Stages
    tied: bool


def lay_out(config: Mapping[str, Any], task: str | None = None) -> Layout:
    """Parameters and buffers of the model that a Hugging Face config describes, under a task's head.

    Args:
        config: the values of a config.json; ``model_type`` is needed, the library's defaults stand in for the rest.
        task: None for the family's own (a decoder's is ``causal-lm``).

    Raises:
        ModelError: a value of the wrong type or size, or a ``model_type`` that has no layout.
        UnsupportedError: the family has no head for the task.
    """
    family = family_of(config.get("model_type"))
    typed_as = family.configs[config["model_type"]]
    head = _HEADS.get(task, task) if task else typed_as.heads[0]
    if head not in typed_as.heads:
        known = ", ".join(typed_as.heads)
        raise UnsupportedError(f"{config['model_type']} has no {task} head", f"its tasks are {known}")
    values = {typed_as.spellings.get(key, key): value for key, value in config.items()}
    if task == "reward":
        values["num_labels"] = 1
    elif isinstance(labels := values.get("id2label"), Mapping):
        values["num_labels"] = len(labels)
    try:
        typed = msgspec.convert(values, typed_as)
        stages = family.stages(typed, head)
    except (msgspec.ValidationError, ValueError) as error:
        raise ModelError(
            f"the model's config is wrong: {error}", "compare it with the config.json on the hub"
        ) from None
    return Layout(values | msgspec.to_builtins(typed), head, stages, ties(typed, head))


def family_of(model_type: object) -> Family:
    """The family that lays a model type out.

    Raises:
        ModelError: there is none.
    """
    if not isinstance(model_type, str):
        raise ModelError("the model's config has no model_type", "give the config.json of a transformers model")
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(f"model type {model_type!r} has no layout in the catalog", f"known are {known}")
    family: Family = import_module(f"{__name__}.{FAMILIES[model_type]}").FAMILY
    return family

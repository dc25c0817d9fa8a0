"""The scenario of a live Hugging Face model, and of the arguments that a Trainer runs it with.

Source: transformers 5.23: trainer.py, training_args.py; peft 0.21: tuners/lora/config.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from memprof.catalog.device_catalog import device as find_device
from memprof.importers import training_arguments
from memprof.importers.combine import combine
from memprof.importers.documents import Document
from memprof.importers.huggingface import ATTENTION, FOUR_BIT
from memprof.importers.imported import Imported
from memprof.importers.reader import Reader
from memprof.model.scenario import Batch, Scenario

_KIND = "training"


def scenario_of(arguments: Mapping[str, Any], model: Any, folder: Path) -> tuple[Scenario, list[str]]:
    """The scenario, and what of the arguments it does not follow.

    Args:
        arguments: ``TrainingArguments.to_dict()``, or the part of it that is known.
        model: on the device where it is trained.
        folder: where the model's config is kept, by which the scenario names it.

    Raises:
        MemprofError: the estimate cannot follow the arguments or the model.
    """
    said = Reader(Document(path="TrainingArguments", data=dict(arguments), lines={}), _KIND)
    training_arguments.arguments(said)
    model_said = _Model(model, folder).said(int(arguments.get("world_size") or 1))
    whole = combine([said.done(), model_said])
    notes = [note.message for note in whole.notes if note.hint is None]
    return whole.scenario(), notes


def batch_of(inputs: Mapping[str, Any], scenario: Scenario) -> Batch:
    """The scenario's batch with the shapes of a real one; keys are those of a Hugging Face model's forward."""
    first = next(iter(inputs.values()))
    changes: dict[str, Any] = {"micro_batch_size": len(first)}
    if (ids := inputs.get("input_ids")) is not None:
        changes = {"micro_batch_size": ids.shape[0], "sequence_length": ids.shape[1]}
        labels = inputs.get("labels")
        if scenario.task == "seq2seq-lm" and labels is not None:
            changes["target_length"] = labels.shape[1]
    elif (pixels := inputs.get("pixel_values")) is not None:
        changes |= {"image_size": pixels.shape[-1]}
    return msgspec.structs.replace(scenario.batch, **changes)


def device_name(device: Any) -> str:
    """The catalog's name of a torch device.

    Raises:
        DeviceError: a card that the catalog does not know.
    """
    import torch

    return "cpu" if device.type == "cpu" else find_device(torch.cuda.get_device_name(device)).name


class _Model:
    """What a live model says of its scenario."""

    def __init__(self, model: Any, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model

    def said(self, world_size: int) -> Imported:
        reader = Reader(Document(path=type(self.base).__name__, data={}, lines={}), _KIND)
        quantization = _quantization(getattr(self.base.config, "quantization_config", None))
        facts: dict[str, Any] = {
            "model": self._config_file(),
            "weights": _weights(self.base),
            "quantization": quantization,
            "attention": ATTENTION.get(getattr(self.base.config, "_attn_implementation", None) or ""),
            "device": device_name(next(self.base.parameters()).device),
            "world": world_size if world_size > 1 else None,
        }
        adapter = getattr(self.model, "peft_config", {}).get(getattr(self.model, "active_adapter", None))
        if adapter is not None:
            facts |= {
                "adapter.rank": adapter.r,
                "adapter.dropout": adapter.lora_dropout,
                "adapter.target_modules": sorted(adapter.target_modules) if adapter.target_modules else None,
            }
        for field, value in facts.items():
            if value is not None:
                reader.set(field, value, field)
        return reader.done()

    def _config_file(self) -> str:
        config = self.base.config.to_dict() | {"architectures": [type(self.base).__name__]}
        config.pop("quantization_config", None)
        path = self.folder / "config.json"
        path.write_text(json.dumps(config, default=str))
        return str(path)


def _weights(model: Any) -> str:
    """The dtype that most parameters are in."""
    sizes: dict[str, int] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            name = str(parameter.dtype).removeprefix("torch.")
            sizes[name] = sizes.get(name, 0) + parameter.numel()
    return max(sizes, key=lambda name: sizes[name])


def _quantization(config: Any) -> str | None:
    if config is None:
        return None
    said = config if isinstance(config, dict) else config.to_dict()
    if said.get("load_in_8bit"):
        return "int8"
    if said.get("load_in_4bit"):
        return FOUR_BIT.get((said["bnb_4bit_quant_type"], said["bnb_4bit_use_double_quant"]))
    return None

"""The real model that an architecture describes, on the meta device: all of it but the numbers."""

from __future__ import annotations

from typing import Any

import torch
import transformers

AUTO_MODELS: dict[str, Any] = {
    "causal-lm": transformers.AutoModelForCausalLM,
    "masked-lm": transformers.AutoModelForMaskedLM,
    "seq2seq-lm": transformers.AutoModelForSeq2SeqLM,
    "sequence-classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "image-classification": transformers.AutoModelForImageClassification,
}


def on_meta(config: dict[str, Any], task: str, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a completed config under a task's head."""
    real = transformers.CONFIG_MAPPING[config["model_type"]](**config)
    with torch.device("meta"):
        return AUTO_MODELS[task].from_config(real, dtype=dtype)

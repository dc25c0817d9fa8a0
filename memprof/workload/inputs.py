"""Synthetic micro-batches of the shape that a Hugging Face model takes; the numbers are random and valid."""

from __future__ import annotations

from typing import Any

from memprof.errors import UnsupportedError
from memprof.model.scenario import Scenario
from memprof.semantics.chunked_loss import IGNORED

_MEL_FRAMES_A_POSITION = 2
"""Whisper's second convolution has stride 2. Source: transformers 5.23 wheel, models/whisper/modeling_whisper.py."""


def batch_of(model: Any, scenario: Scenario) -> dict[str, Any]:
    """One micro-batch; labels are there in training only.

    Raises:
        UnsupportedError: the model's main input is none of ids, pixels, samples and mel features.
    """
    import torch

    config, count = model.config, scenario.batch.micro_batch_size
    device, dtype = _device(model), _float_dtype(model)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    vocab_size = getattr(text, "vocab_size", None)
    length = scenario.batch.sequence_length or 2048
    name = model.main_input_name
    if name == "input_ids":
        shape: tuple[int, ...] = (count, length)
        data = torch.randint(0, vocab_size, shape, device=device)
    elif name == "pixel_values":
        height, width = _image_size(config, scenario)
        data = torch.randn((count, getattr(config, "num_channels", 3), height, width), device=device, dtype=dtype)
    elif name == "input_values":
        data = torch.randn((count, length), device=device, dtype=dtype)
    elif name == "input_features":
        frames = getattr(config, "max_source_positions", length) * _MEL_FRAMES_A_POSITION
        data = torch.randn((count, config.num_mel_bins, frames), device=device, dtype=dtype)
    else:
        raise UnsupportedError(
            f"{type(model).__name__} takes {name}, which memprof does not know how to make",
            "write a factory that returns (model, inputs) and name it as package.module:factory",
        )
    batch = {name: data}
    if scenario.mode == "train":
        batch["labels"] = _labels(model, scenario, data, vocab_size)
        if scenario.loss == "chunked":
            batch["labels"][:, -1] = IGNORED
    return batch


def _labels(model: Any, scenario: Scenario, data: Any, vocab_size: int | None) -> Any:
    import torch

    kind, count = type(model).__name__, len(data)
    if kind.endswith(("ForSequenceClassification", "ForImageClassification", "ForAudioClassification")):
        shape: tuple[int, ...] = (count,)
        classes = int(model.config.num_labels)
    elif kind.endswith("ForTokenClassification"):
        shape, classes = tuple(data.shape), int(model.config.num_labels)
    else:
        length = scenario.batch.target_length
        if length is None and data.ndim != 2:
            length = getattr(model.config, "max_target_positions", None) or 128
        shape, classes = (count, length or data.shape[1]), int(vocab_size or model.config.num_labels)
    return torch.randint(0, classes, shape, device=data.device)


def _image_size(config: Any, scenario: Scenario) -> tuple[int, int]:
    """As asked, else the model's own, else ImageNet's 224, which models without positions leave open."""
    size = scenario.batch.image_size or getattr(config, "image_size", None) or 224
    return tuple(size) if isinstance(size, list | tuple) else (size, size)


def _device(model: Any) -> Any:
    return next(model.parameters()).device


def _float_dtype(model: Any) -> Any:
    return next(p.dtype for p in model.parameters() if p.is_floating_point())

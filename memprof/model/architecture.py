"""An Architecture: a model's dimensions and its parameters by name and shape, identical layers folded."""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import msgspec

Kind = Literal["linear", "conv1d", "embedding", "norm", "bias", "conv", "other"]


class Parameter(msgspec.Struct, frozen=True):
    """One parameter tensor, named as ``named_parameters()`` names it, relative to its stage.

    ``kind`` is what its module is: a ``linear`` weight has shape (out, in), a ``conv1d`` (GPT-2's transposed linear)
    (in, out); the bias of any module is ``bias``. Quantizers and LoRA choose by it.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind

    @property
    def numel(self) -> int:
        return prod(self.shape)


class Buffer(msgspec.Struct, frozen=True):
    """One buffer tensor (persistent or not) that lives on the device; ``dtype`` None follows the model's."""

    name: str
    shape: tuple[int, ...]
    dtype: str | None = None


class Stage(msgspec.Struct, frozen=True):
    """A run of ``count`` identical modules: the stem, identical layers, the head.

    ``name`` is the canonical module path with the layer index starred (``model.layers.*``); empty for the root, whose
    parameters carry full names.
    """

    name: str
    count: int
    parameters: tuple[Parameter, ...]
    buffers: tuple[Buffer, ...] = ()

    @property
    def numel(self) -> int:
        return self.count * sum(p.numel for p in self.parameters)


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is: enough for counting it exactly, for the analytic engine's program, and for building it.

    Attributes:
        name: the short catalog name, or the path or id that was given.
        hf_id: hub id, or None for a local config.
        model_type: ``model_type`` of the Hugging Face config.
        task: the head that the layout below includes.
        config: the Hugging Face config's values, defaults filled in; the one place where dimensions come from.
        stages: parameters in ``named_parameters()`` order of first use: stem, layers, head. A tied weight appears once.
        tied: whether the output head shares the input embedding.
        checkpoint_dtypes: bytes per dtype that safetensors headers showed, or None when no checkpoint was read.
        source: where the dimensions come from (URL).
    """

    name: str
    hf_id: str | None
    model_type: str
    task: str
    config: dict[str, Any]
    stages: tuple[Stage, ...]
    tied: bool = False
    checkpoint_dtypes: dict[str, int] | None = None
    source: str = ""

    @property
    def num_parameters(self) -> int:
        """Unique parameters, as ``sum(p.numel() for p in model.parameters())`` counts them."""
        return sum(stage.numel for stage in self.stages)

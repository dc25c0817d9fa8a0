"""LoRA as PEFT adds it: which modules, which parameters, in which dtype, and what an adapted layer computes.

Forward of an adapted linear (``x`` enters in the base layer's input dtype, ``A`` and ``B`` in the adapter's; every
result is a new tensor, but a cast to the same dtype is not):

1. ``result = base_layer(x)``; over a 4-bit base layer then ``result = result.clone()``
2. ``x = x.to(A.dtype)``; over an 8-bit or 4-bit base layer not under CUDA's autocast
3. ``x = dropout(x)`` (identity for rate 0)
4. ``low = A(x)``; autograd saves ``x`` for A's gradient, under autocast its low-precision cast
5. ``high = B(low)``; saves ``low``
6. ``high = high * scaling``; saves nothing, as ``scaling`` is a Python float
7. over an 8-bit or 4-bit base layer not under CUDA's autocast: ``high = high.to(result.dtype)``
8. ``result = result + high``, which PyTorch promotes to the wider dtype
9. over a plain base layer: ``result = result.to(dtype of step 1)``

An adapted embedding adds ``(embedding(x, A.T) @ B.T) * scaling`` and casts nothing.

Source: peft 0.21.2 wheel: tuners/lora/layer.py (``forward`` and ``update_layer`` of ``Linear`` and ``Embedding``),
tuners/lora/bnb.py (``Linear8bitLt.forward``, ``Linear4bit.forward``), utils/other.py (``cast_adapter_dtype``).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from memprof.errors import ConfigError
from memprof.model.architecture import Architecture, Parameter

DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "bart": ("q_proj", "v_proj"),
    "bert": ("query", "value"),
    "bloom": ("query_key_value",),
    "deberta": ("in_proj",),
    "deberta-v2": ("query_proj", "value_proj"),
    "electra": ("query", "value"),
    "falcon": ("query_key_value",),
    "gemma": ("q_proj", "v_proj"),
    "gemma2": ("q_proj", "v_proj"),
    "gemma3_text": ("q_proj", "v_proj"),
    "gpt2": ("c_attn",),
    "gpt_bigcode": ("c_attn",),
    "gpt_neo": ("q_proj", "v_proj"),
    "gpt_neox": ("query_key_value",),
    "gptj": ("q_proj", "v_proj"),
    "llama": ("q_proj", "v_proj"),
    "llama4": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "mixtral": ("q_proj", "v_proj"),
    "mpt": ("Wqkv",),
    "mt5": ("q", "v"),
    "opt": ("q_proj", "v_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "qwen2": ("q_proj", "v_proj"),
    "qwen3": ("q_proj", "v_proj"),
    "roberta": ("query", "value"),
    "stablelm": ("q_proj", "v_proj"),
    "t5": ("q", "v"),
    "xlm-roberta": ("query", "value"),
}
"""PEFT's choice where ``target_modules`` is left out.

Source: peft 0.21.2 wheel: utils/constants.py (``TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING``).
"""

ALL_LINEAR = "all-linear"
_ADAPTED_KINDS = ("linear", "conv1d", "embedding")


class AdapterParameter(NamedTuple):
    """A trainable tensor that LoRA adds; named as ``named_parameters()`` does below the adapted module."""

    name: str
    shape: tuple[int, ...]


def target_modules(model_type: str, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The module names to adapt: as asked, or PEFT's default for the architecture.

    Raises:
        ConfigError: nothing was asked and PEFT has no default for this architecture.
    """
    targets = asked or DEFAULT_TARGETS.get(model_type)
    if targets is None:
        raise ConfigError(
            f"adapter.target_modules is needed: PEFT has no default for {model_type}",
            f"name the modules, for example [q_proj, v_proj], or [{ALL_LINEAR}]",
        )
    return targets


def is_adapted(parameter: Parameter, path: str, targets: Collection[str], heads: Collection[str] = ()) -> bool:
    """Whether LoRA adapts the module that owns this weight.

    Args:
        parameter: the weight; biases and norms are never adapted.
        path: the parameter's full name; a target matches its module's last parts.
        heads: modules that ``all-linear`` leaves out (the output embedding).
    """
    if parameter.kind not in _ADAPTED_KINDS or not path.endswith("weight"):
        return False
    module = path.removesuffix("weight").removesuffix(".")
    if ALL_LINEAR in targets:
        return parameter.kind != "embedding" and module not in heads
    return any(module == target or module.endswith(f".{target}") for target in targets)


def adapter_parameters(parameter: Parameter, rank: int) -> tuple[AdapterParameter, AdapterParameter]:
    """A and B for an adapted weight: in -> rank -> out. An embedding's are stored transposed."""
    module = parameter.name.removesuffix("weight")
    if parameter.kind == "embedding":
        num_embeddings, width = parameter.shape
        return (
            AdapterParameter(f"{module}lora_embedding_A.default", (rank, num_embeddings)),
            AdapterParameter(f"{module}lora_embedding_B.default", (width, rank)),
        )
    num_out, num_in = parameter.shape if parameter.kind == "linear" else parameter.shape[::-1]
    return (
        AdapterParameter(f"{module}lora_A.default.weight", (rank, num_in)),
        AdapterParameter(f"{module}lora_B.default.weight", (num_out, rank)),
    )


def adapter_dtype(weight_dtype: str) -> str:
    """float32 over 16-bit and quantized weights (``autocast_adapter_dtype``); a float64 base keeps its own."""
    return "float64" if weight_dtype == "float64" else "float32"


def converts_over_quantized(device_kind: str, autocast: bool) -> bool:
    """Whether steps 2 and 7 cast over an 8-bit or 4-bit base layer.

    PEFT asks ``torch.is_autocast_enabled()``, which speaks of CUDA's autocast alone: under the CPU's it casts.
    """
    return device_kind == "cpu" or not autocast


def check_targets(architecture: Architecture, targets: Collection[str], heads: Collection[str] = ()) -> None:
    """Refuse targets that match no weight of the model, as PEFT does.

    Raises:
        ConfigError: a target that no module's name ends in.
    """
    weights = [
        (parameter, f"{stage.name}.{parameter.name}" if stage.name else parameter.name)
        for stage in architecture.stages
        for parameter in stage.parameters
    ]
    for target in targets:
        if not any(is_adapted(parameter, path, (target,), heads) for parameter, path in weights):
            names = sorted(
                {path.split(".")[-2] for p, path in weights if p.kind in ("linear", "conv1d") and "." in path}
            )
            raise ConfigError(
                f"adapter.target_modules: no module of {architecture.name} is named {target}",
                f"its linear modules are {', '.join(names)}",
            )

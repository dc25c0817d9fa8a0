"""torchtune's model builders by the names that the catalog has for what they build, and the LoRA they put on it.

Source: torchtune 0.6.1: models/*/_model_builders.py, models/llama3/_component_builders.py; Qwen 3 and SmolLM2:
https://github.com/pytorch/torchtune/tree/main/torchtune/models. Tests hold the parameters that each of them builds.
"""

from __future__ import annotations

import re

from memprof.importers.reader import Reader

SOURCE = "torchtune 0.6.1: models/*/_model_builders.py"
MODELS = {
    "llama2_7b": "llama-2-7b", "llama2_13b": "llama-2-13b", "llama2_70b": "llama-2-70b",
    "llama3_8b": "llama-3-8b", "llama3_70b": "llama-3-70b",
    "llama3_1_8b": "llama-3.1-8b", "llama3_1_70b": "llama-3.1-70b", "llama3_1_405b": "llama-3.1-405b",
    "llama3_2_1b": "llama-3.2-1b", "llama3_2_3b": "llama-3.2-3b", "llama3_3_70b": "llama-3.1-70b",
    "code_llama2_7b": "codellama-7b", "code_llama2_13b": "codellama-13b", "code_llama2_70b": "codellama-70b",
    "mistral_7b": "mistral-7b-v0.1", "phi3_mini": "phi-3-mini", "phi4_14b": "phi-4",
    "gemma_2b": "gemma-2b", "gemma_7b": "gemma-7b",
    "gemma2_2b": "gemma-2-2b", "gemma2_9b": "gemma-2-9b", "gemma2_27b": "gemma-2-27b",
    "qwen2_0_5b": "qwen2-0.5b", "qwen2_1_5b": "qwen2-1.5b", "qwen2_7b": "qwen2-7b",
    "qwen2_5_0_5b": "qwen2.5-0.5b", "qwen2_5_1_5b": "qwen2.5-1.5b", "qwen2_5_3b": "qwen2.5-3b",
    "qwen2_5_7b": "qwen2.5-7b", "qwen2_5_14b": "qwen2.5-14b", "qwen2_5_32b": "qwen2.5-32b",
    "qwen2_5_72b": "qwen2.5-72b",
    "qwen3_0_6b": "qwen3-0.6b", "qwen3_1_7b": "qwen3-1.7b", "qwen3_4b": "qwen3-4b",
    "qwen3_8b": "qwen3-8b", "qwen3_14b": "qwen3-14b", "qwen3_32b": "qwen3-32b",
    "smollm2_135m": "smollm2-135m", "smollm2_360m": "smollm2-360m", "smollm2_1_7b": "smollm2-1.7b",
}  # fmt: skip
"""Builder's name, without what it adds (``qlora_``) and what does not change dimensions (``_instruct``); model here."""
_BUILDER = re.compile(r"torchtune\.models\.\w+\.(qlora_|lora_|dora_|qdora_)?(\w+?)(?:_base|_instruct)?\Z")
_PROJECTIONS = {"output_proj": "o_proj"}
_JOINED = {
    "q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj", "output_proj": "o_proj",
    "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj",
}  # fmt: skip
"""Phi 3's projections in transformers, which has q, k and v in one, and gate and up.

Source: transformers 5.23: models/phi3/modeling_phi3.py."""
_MLP = ("gate_proj", "up_proj", "down_proj")


def model(reader: Reader) -> None:
    """The model that a recipe trains, or asks, and what its builder adds to it."""
    section = "policy_model" if reader.has("policy_model") else "model"
    component = reader.text(section, "_component_")
    match = _BUILDER.match(component or "")
    variant, name = match.groups() if match else (None, component)
    if name in MODELS:
        reader.set("model", MODELS[name], section, "_component_")
        reader.warn(
            "torchtune's own model code is estimated as that of transformers", section, "_component_", field="model"
        )
    elif component is None:
        reader.refuse("model", "names no builder", section)
    elif reader.has(section, "embed_dim"):
        reader.refuse("model", "a model built from dimensions is not read", section, "_component_")
    else:
        reader.refuse("model", "the catalog has no model of this builder", section, "_component_")
    if variant is not None:
        _adapter(reader, section, variant, _JOINED if (name or "").startswith("phi") else _PROJECTIONS)


def _adapter(reader: Reader, section: str, variant: str, names: dict[str, str]) -> None:
    if variant in ("dora_", "qdora_") or reader.flag(section, "use_dora"):
        reader.refuse("adapter", "DoRA is not modelled", section, "_component_")
    if variant in ("qlora_", "qdora_") or reader.flag(section, "quantize_base"):
        reader.set("quantization", "nf4-double", section, "_component_")
        reader.warn("torchao's NF4 is estimated as bitsandbytes'", section, "_component_", field="quantization")
    reader.take("adapter.rank", reader.whole(section, "lora_rank"), section, "lora_rank", default=8, source=SOURCE)
    dropout = reader.number(section, "lora_dropout")
    reader.take("adapter.dropout", dropout, section, "lora_dropout", default=0.0, source=SOURCE)
    targets = list(reader.words(section, "lora_attn_modules") or ())
    if reader.flag(section, "apply_lora_to_mlp"):
        targets += _MLP
    if reader.flag(section, "apply_lora_to_output"):
        targets += ["lm_head"]
    named = list(dict.fromkeys(names.get(target, target) for target in targets))
    reader.set("adapter.target_modules", named, section, "lora_attn_modules")
    if len(named) < len(targets):
        reader.warn(
            "transformers has some of these matrices in one, which the estimate puts one adapter on",
            section,
            "lora_attn_modules",
            field="adapter.target_modules",
        )
    reader.warn(
        "its adapters have the type of the weights; the estimate has them in float32, as PEFT's are",
        section,
        "_component_",
        field="adapter",
    )

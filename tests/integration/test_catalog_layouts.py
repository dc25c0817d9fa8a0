"""Layouts against the real models: names, shapes, kinds, order and buffers of every family, under every head."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count as counter
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from memprof.catalog.architectures import FAMILIES, Layout, family_of, lay_out
from memprof.model.architecture import Stage
from tests.support.real_models import on_meta

# Small enough to build in no time, and no two dimensions alike.
ROTARY = {
    "vocab_size": 320, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA = {key: ROTARY[key] for key in ROTARY if key != "head_dim"}
UNPADDED = {"pad_token_id": None}  # the default lies beyond so small a vocabulary
GPT = {"vocab_size": 320, "n_positions": 40, "n_embd": 48, "n_layer": 3, "n_head": 6}
BERT = {
    "vocab_size": 320, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 88,
    "max_position_embeddings": 40, "type_vocab_size": 3,
}  # fmt: skip
NEO = {"vocab_size": 320, "hidden_size": 48, "num_layers": 3, "num_heads": 6, "max_position_embeddings": 40}
NEOX = {key: BERT[key] for key in BERT if key != "type_vocab_size"}
OPT = NEOX | {"ffn_dim": 88}
FALCON = {"vocab_size": 320, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
T5 = {
    "vocab_size": 320,
    "d_model": 48,
    "d_kv": 10,
    "d_ff": 88,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 6,
}
LATENT = ROTARY | {
    "kv_lora_rank": 20, "q_lora_rank": 28, "qk_nope_head_dim": 14, "qk_rope_head_dim": 6, "v_head_dim": 12,
    "moe_intermediate_size": 36, "n_routed_experts": 8, "n_shared_experts": 2, "first_k_dense_replace": 1,
    "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
}  # fmt: skip
del LATENT["head_dim"]
VIT = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 88, "image_size": 40,
       "patch_size": 8, "num_channels": 2}  # fmt: skip

CONFIGS: dict[str, list[dict[str, Any]]] = {
    "llama": [ROTARY, ROTARY | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}],
    "mistral": [ROTARY],
    "qwen2": [LLAMA],
    "qwen3": [ROTARY, ROTARY | {"attention_bias": True, "use_sliding_window": True, "max_window_layers": 1}],
    "granite": [ROTARY | {"tie_word_embeddings": True}],
    "phi3": [LLAMA | UNPADDED | {"partial_rotary_factor": 0.5}],
    "smollm3": [
        ROTARY | UNPADDED | {"use_sliding_window": True, "sliding_window": 16, "no_rope_layers": [1, 0, 1]},
        ROTARY | UNPADDED | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    ],
    "gemma": [ROTARY, ROTARY | {"attention_bias": True}],
    "gemma2": [ROTARY],
    "gemma3_text": [ROTARY, ROTARY | {"num_hidden_layers": 7}, ROTARY | {"sliding_window_pattern": 2}],
    "mixtral": [ROTARY | {"num_local_experts": 4}],
    "qwen3_moe": [
        ROTARY | {"num_experts": 4, "moe_intermediate_size": 36},
        ROTARY | {"num_experts": 4, "num_hidden_layers": 6, "mlp_only_layers": [0, 1], "decoder_sparse_step": 2},
    ],
    "deepseek_v2": [LATENT, LATENT | {"q_lora_rank": None, "first_k_dense_replace": 0, "attention_bias": True}],
    "deepseek_v3": [LATENT, LATENT | {"first_k_dense_replace": 3}],
    "gpt2": [GPT, GPT | {"n_inner": 88, "tie_word_embeddings": False}],
    "gpt_bigcode": [GPT, GPT | {"multi_query": False, "n_inner": 88}],
    "gpt_neo": [NEO | {"attention_types": [[["global", "local"], 1], [["global"], 1]]}],
    "gpt_neox": [NEOX, NEOX | {"rotary_pct": 0.5, "attention_bias": False, "tie_word_embeddings": True}],
    "opt": [
        OPT,
        OPT | {"word_embed_proj_dim": 24, "do_layer_norm_before": False},
        OPT | {"word_embed_proj_dim": 24, "enable_bias": False},
        OPT | {"word_embed_proj_dim": 48, "layer_norm_elementwise_affine": False, "tie_word_embeddings": False},
    ],
    "phi": [
        NEOX | {"num_key_value_heads": 2, "qk_layernorm": True},
        NEOX | {"partial_rotary_factor": 0.25, "tie_word_embeddings": True},
    ],
    "falcon": [
        FALCON,
        FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2, "tie_word_embeddings": False},
        FALCON | {"multi_query": False, "parallel_attn": False, "bias": True},
    ],
    "starcoder2": [ROTARY, ROTARY | {"use_bias": False, "tie_word_embeddings": False}],
    "stablelm": [
        LLAMA,
        LLAMA | {"use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True},
        LLAMA | {"partial_rotary_factor": 0.5, "tie_word_embeddings": True},
    ],
    "bert": [BERT, BERT | {"tie_word_embeddings": False}],
    "roberta": [BERT, BERT | {"tie_word_embeddings": False}],
    "megatron-bert": [BERT],
    "distilbert": [
        {"vocab_size": 320, "dim": 48, "hidden_dim": 88, "n_layers": 3, "n_heads": 6, "max_position_embeddings": 40}
    ],
    "t5": [T5, T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, T5 | {"num_layers": 1}],
    "vit": [VIT, VIT | {"qkv_bias": False, "id2label": {str(label): str(label) for label in range(7)}}],
}

CASES = [
    pytest.param(model_type, index, head, id=f"{model_type}-{index}-{head}")
    for model_type, configs in CONFIGS.items()
    for index in range(len(configs))
    for head in family_of(model_type).configs[model_type].heads
]


def test_every_model_type_with_a_layout_is_compared() -> None:
    assert CONFIGS.keys() == FAMILIES.keys()


@pytest.mark.parametrize(("model_type", "index", "head"), CASES)
def test_layout_is_the_real_model(model_type: str, index: int, head: str) -> None:
    layout = lay_out({"model_type": model_type} | CONFIGS[model_type][index], head)
    model = on_meta(layout.config, layout.task, torch.bfloat16)

    assert expand(layout) == [
        (name, tuple(tensor.shape), kind_of(model, name)) for name, tensor in model.named_parameters()
    ]
    assert expand_buffers(layout) == {
        name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in model.named_buffers()
    }
    assert layout.tied == shares_embedding(model)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_defaults_are_the_librarys(model_type: str) -> None:
    ours = lay_out({"model_type": model_type}).config
    real = CONFIG_MAPPING[model_type]()

    differing = {
        key: (value, getattr(real, key))
        for key, value in ours.items()
        if getattr(real, key, None) is not None
        and key != "rope_parameters"
        and as_lists(value) != as_lists(getattr(real, key))
    }
    assert differing == {}


def starred(stages: tuple[Stage, ...]) -> Iterator[tuple[Stage, str]]:
    """Each stage with the prefix of each of its instances; stages of one name go on counting."""
    numbers: dict[str, counter[int]] = {}
    for stage in stages:
        for _ in range(stage.count):
            index = next(numbers.setdefault(stage.name, counter()))
            yield stage, f"{stage.name.replace('*', str(index))}." if stage.name else ""


def expand(layout: Layout) -> list[tuple[str, tuple[int, ...], str]]:
    return [(prefix + p.name, p.shape, p.kind) for stage, prefix in starred(layout.stages) for p in stage.parameters]


def expand_buffers(layout: Layout) -> dict[str, tuple[tuple[int, ...], str]]:
    return {
        prefix + buffer.name: (buffer.shape, f"torch.{buffer.dtype or 'bfloat16'}")
        for stage, prefix in starred(layout.stages)
        for buffer in stage.buffers
    }


def kind_of(model: nn.Module, name: str) -> str:
    """What the module that owns a parameter is."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf == "bias":
        return "bias"
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, Conv1D):
        return "conv1d"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.Conv2d):
        return "conv"
    return "norm" if type(module).__name__.endswith("Norm") else "other"


def shares_embedding(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def as_lists(value: Any) -> Any:
    return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value

"""GPT-NeoX: Pythia, StableLM Alpha, StableCode Alpha. Attention and feed-forward side by side, an untied head.

Source: transformers 5.23: models/gpt_neox/{configuration,modeling}_gpt_neox.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

from memprof.catalog.architectures.family import (
    CAUSAL_HEADS,
    Count,
    Depth,
    Family,
    LanguageConfig,
    Rate,
    per_head,
    rotated,
)
from memprof.catalog.architectures.gpt2 import gpt_head
from memprof.catalog.architectures.parts import Stages, embedding, layer_norm, linear, root, rotary
from memprof.model.architecture import Stage


class GPTNeoXConfig(LanguageConfig, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = CAUSAL_HEADS

    model_type: str = "gpt_neox"
    vocab_size: Count = 50432
    hidden_size: Count = 6144
    num_hidden_layers: Depth = 44
    num_attention_heads: Count = 64
    intermediate_size: Count = 24576
    hidden_act: str = "gelu"
    rotary_pct: Rate = 0.25
    rope_parameters: dict[str, Any] | None = None
    attention_dropout: Rate = 0.0
    hidden_dropout: Rate = 0.0
    classifier_dropout: Rate = 0.1
    max_position_embeddings: Count = 2048
    layer_norm_eps: float = 1e-5
    use_parallel_residual: bool = True
    attention_bias: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        per_head(self.hidden_size, self.num_attention_heads)


def stages(c: GPTNeoXConfig, task: str) -> Stages:
    width, inner = c.hidden_size, c.intermediate_size
    block = (
        *layer_norm("input_layernorm", width),
        *layer_norm("post_attention_layernorm", width),
        *linear("attention.query_key_value", width, 3 * width, c.attention_bias),
        *linear("attention.dense", width, width, c.attention_bias),
        *linear("mlp.dense_h_to_4h", width, inner, bias=True),
        *linear("mlp.dense_4h_to_h", inner, width, bias=True),
    )
    rotary_width = rotated(width // c.num_attention_heads, c.rotary_pct, c.rope_parameters)
    return (
        root(embedding("gpt_neox.embed_in", c.vocab_size, width)),
        Stage("gpt_neox.layers.*", c.num_hidden_layers, block),
        root(
            (*layer_norm("gpt_neox.final_layer_norm", width), *gpt_head(c, task, width, c.vocab_size)),
            rotary("gpt_neox.rotary_emb", rotary_width),
        ),
    )


FAMILY = Family(
    configs={"gpt_neox": GPTNeoXConfig},
    stages=stages,
)

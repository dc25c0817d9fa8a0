"""Falcon: fused query, key and value with few key-value heads; one or two norms a layer, a tied head.

Source: transformers 5.23: models/falcon/{configuration,modeling}_falcon.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

from memprof.catalog.architectures.family import CAUSAL_HEADS, Count, Depth, Family, LanguageConfig, Rate, per_head
from memprof.catalog.architectures.gpt2 import gpt_head
from memprof.catalog.architectures.parts import Parameters, Stages, embedding, layer_norm, linear, root, rotary
from memprof.model.architecture import Stage


class FalconConfig(LanguageConfig, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = CAUSAL_HEADS
    spellings: ClassVar[Mapping[str, str]] = {"n_embed": "hidden_size"}

    model_type: str = "falcon"
    vocab_size: Count = 65024
    hidden_size: Count = 4544
    num_hidden_layers: Depth = 32
    num_attention_heads: Count = 71
    num_ln_in_parallel_attn: Count | None = None
    layer_norm_epsilon: float = 1e-5
    hidden_dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    num_kv_heads: Count | None = None
    alibi: bool = False
    new_decoder_architecture: bool = False
    multi_query: bool = True
    parallel_attn: bool = True
    bias: bool = False
    max_position_embeddings: Count = 2048
    ffn_hidden_size: Count | None = None
    activation: str = "gelu"

    def __post_init__(self) -> None:
        per_head(self.hidden_size, self.num_attention_heads)
        if self.num_kv_heads is None:
            self.num_kv_heads = self.num_attention_heads
        if self.ffn_hidden_size is None:
            self.ffn_hidden_size = 4 * self.hidden_size


def _norms(c: FalconConfig) -> Parameters:
    width = c.hidden_size
    if not c.parallel_attn:
        return *layer_norm("post_attention_layernorm", width), *layer_norm("input_layernorm", width)
    num_norms = c.num_ln_in_parallel_attn or (2 if c.new_decoder_architecture else 1)
    if num_norms == 2:
        return *layer_norm("ln_attn", width), *layer_norm("ln_mlp", width)
    return layer_norm("input_layernorm", width)


def stages(c: FalconConfig, task: str) -> Stages:
    width, inner = c.hidden_size, cast(int, c.ffn_hidden_size)
    head_width = width // c.num_attention_heads
    if c.new_decoder_architecture:
        key_width = cast(int, c.num_kv_heads) * head_width
    else:
        key_width = head_width if c.multi_query else width
    block = (
        *linear("self_attention.query_key_value", width, width + 2 * key_width, c.bias),
        *linear("self_attention.dense", width, width, c.bias),
        *linear("mlp.dense_h_to_4h", width, inner, c.bias),
        *linear("mlp.dense_4h_to_h", inner, width, c.bias),
        *_norms(c),
    )
    return (
        root(embedding("transformer.word_embeddings", c.vocab_size, width)),
        Stage("transformer.h.*", c.num_hidden_layers, block),
        root(
            (*layer_norm("transformer.ln_f", width), *gpt_head(c, task, width, c.vocab_size)),
            rotary("transformer.rotary_emb", head_width),
        ),
    )


FAMILY = Family(
    configs={"falcon": FalconConfig},
    stages=stages,
)

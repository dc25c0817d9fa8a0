"""StarCoder 2: a rotary decoder with layer norms, biased linears and a plain feed-forward.

Source: transformers 5.23: models/starcoder2/{configuration,modeling}_starcoder2.py.
"""

from __future__ import annotations

from typing import ClassVar, cast

from memprof.catalog.architectures.family import (
    CAUSAL_HEADS,
    Count,
    Depth,
    Family,
    LanguageConfig,
    Rate,
    per_head,
    ties,
)
from memprof.catalog.architectures.parts import Stages, decoder_head, embedding, layer_norm, linear, root, rotary
from memprof.model.architecture import Stage


class Starcoder2Config(LanguageConfig, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = CAUSAL_HEADS

    model_type: str = "starcoder2"
    vocab_size: Count = 49152
    hidden_size: Count = 3072
    intermediate_size: Count = 12288
    num_hidden_layers: Depth = 30
    num_attention_heads: Count = 24
    num_key_value_heads: Count = 2
    head_dim: Count | None = None
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: Count = 4096
    norm_epsilon: float = 1e-5
    sliding_window: Count | None = None
    attention_dropout: Rate = 0.0
    residual_dropout: Rate = 0.0
    embedding_dropout: Rate = 0.0
    use_bias: bool = True

    def __post_init__(self) -> None:
        if self.head_dim is None:
            self.head_dim = per_head(self.hidden_size, self.num_attention_heads)


def stages(c: Starcoder2Config, task: str) -> Stages:
    width, head_width, bias = c.hidden_size, cast(int, c.head_dim), c.use_bias
    query_width, key_width = c.num_attention_heads * head_width, c.num_key_value_heads * head_width
    block = (
        *linear("self_attn.q_proj", width, query_width, bias),
        *linear("self_attn.k_proj", width, key_width, bias),
        *linear("self_attn.v_proj", width, key_width, bias),
        *linear("self_attn.o_proj", query_width, width, bias),
        *linear("mlp.c_fc", width, c.intermediate_size, bias),
        *linear("mlp.c_proj", c.intermediate_size, width, bias),
        *layer_norm("input_layernorm", width),
        *layer_norm("post_attention_layernorm", width),
    )
    head = decoder_head(task, width, c.vocab_size, c.num_labels, ties(c, task))
    return (
        root(embedding("model.embed_tokens", c.vocab_size, width)),
        Stage("model.layers.*", c.num_hidden_layers, block),
        root((*layer_norm("model.norm", width), *head), rotary("model.rotary_emb", head_width)),
    )


FAMILY = Family(configs={"starcoder2": Starcoder2Config}, stages=stages)

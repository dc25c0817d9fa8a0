"""Phi 1, 1.5 and 2: biased linears, one norm a layer, attention and feed-forward side by side, a biased head.

Source: transformers 5.23: models/phi/{configuration,modeling}_phi.py.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from memprof.catalog.architectures.family import (
    CAUSAL_HEADS,
    Count,
    Depth,
    Family,
    LanguageConfig,
    Rate,
    per_head,
    rotated,
    ties,
)
from memprof.catalog.architectures.parts import (
    Parameters,
    Stages,
    decoder_head,
    embedding,
    layer_norm,
    linear,
    root,
    rotary,
)
from memprof.model.architecture import Parameter, Stage


class PhiConfig(LanguageConfig, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = CAUSAL_HEADS

    model_type: str = "phi"
    vocab_size: Count = 51200
    hidden_size: Count = 2048
    intermediate_size: Count = 8192
    num_hidden_layers: Depth = 24
    num_attention_heads: Count = 32
    num_key_value_heads: Count | None = None
    resid_pdrop: Rate = 0.0
    embd_pdrop: Rate = 0.0
    attention_dropout: Rate = 0.0
    hidden_act: str = "gelu_new"
    max_position_embeddings: Count = 2048
    layer_norm_eps: float = 1e-5
    partial_rotary_factor: Rate = 0.5
    rope_parameters: dict[str, Any] | None = None
    qk_layernorm: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        per_head(self.hidden_size, self.num_attention_heads)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads


def _head(c: PhiConfig, task: str) -> Parameters:
    if task == "causal-lm":
        bias = Parameter("lm_head.bias", (c.vocab_size,), "bias")
        return (bias,) if ties(c, task) else linear("lm_head", c.hidden_size, c.vocab_size, bias=True)
    return decoder_head(task, c.hidden_size, c.vocab_size, c.num_labels, tied=False)


def stages(c: PhiConfig, task: str) -> Stages:
    width, head_width = c.hidden_size, c.hidden_size // c.num_attention_heads
    key_width = cast(int, c.num_key_value_heads) * head_width
    qk_norms = (*layer_norm("self_attn.q_layernorm", head_width), *layer_norm("self_attn.k_layernorm", head_width))
    block = (
        *linear("self_attn.q_proj", width, width, bias=True),
        *linear("self_attn.k_proj", width, key_width, bias=True),
        *linear("self_attn.v_proj", width, key_width, bias=True),
        *linear("self_attn.dense", width, width, bias=True),
        *(qk_norms if c.qk_layernorm else ()),
        *linear("mlp.fc1", width, c.intermediate_size, bias=True),
        *linear("mlp.fc2", c.intermediate_size, width, bias=True),
        *layer_norm("input_layernorm", width),
    )
    return (
        root(embedding("model.embed_tokens", c.vocab_size, width)),
        Stage("model.layers.*", c.num_hidden_layers, block),
        root(
            (*layer_norm("model.final_layernorm", width), *_head(c, task)),
            rotary("model.rotary_emb", rotated(head_width, c.partial_rotary_factor, c.rope_parameters)),
        ),
    )


FAMILY = Family(configs={"phi": PhiConfig}, stages=stages)

"""What rotary decoders with gated feed-forwards have in common; llama, gemma, mixture and deepseek build on it.

Source: transformers 5.23: models/llama/{configuration,modeling}_llama.py.
"""

from __future__ import annotations

from typing import ClassVar, cast

from memprof.catalog.architectures.family import CAUSAL_HEADS, Count, Depth, LanguageConfig, Rate, per_head, ties
from memprof.catalog.architectures.parts import (
    Buffers,
    Parameters,
    Stages,
    decoder_head,
    embedding,
    free,
    linear,
    rms_norm,
    root,
    rotary,
)


class DecoderConfig(LanguageConfig, kw_only=True):
    """What every decoder of this shape says of itself."""

    heads: ClassVar[tuple[str, ...]] = CAUSAL_HEADS

    vocab_size: Count = 32000
    hidden_size: Count = 4096
    intermediate_size: Count = 11008
    num_hidden_layers: Depth = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    max_position_embeddings: Count = 2048
    rms_norm_eps: float = 1e-6
    attention_dropout: Rate = 0.0
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = per_head(self.hidden_size, self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of"
                f" num_key_value_heads {self.num_key_value_heads}"
            )

    @property
    def head_width(self) -> int:
        return cast(int, self.head_dim)

    @property
    def query_width(self) -> int:
        return self.num_attention_heads * self.head_width

    @property
    def key_width(self) -> int:
        return cast(int, self.num_key_value_heads) * self.head_width


def attention(c: DecoderConfig, *, qkv_bias: bool = False, out_bias: bool = False, qk_norm: bool = False) -> Parameters:
    """``self_attn`` with separate projections; norms over a head's channels where the family has them."""
    projections = (
        *linear("self_attn.q_proj", c.hidden_size, c.query_width, qkv_bias),
        *linear("self_attn.k_proj", c.hidden_size, c.key_width, qkv_bias),
        *linear("self_attn.v_proj", c.hidden_size, c.key_width, qkv_bias),
        *linear("self_attn.o_proj", c.query_width, c.hidden_size, out_bias),
    )
    if not qk_norm:
        return projections
    return *projections, *rms_norm("self_attn.q_norm", c.head_width), *rms_norm("self_attn.k_norm", c.head_width)


def gated_mlp(name: str, hidden: int, inner: int, bias: bool = False) -> Parameters:
    """The gated feed-forward with separate gate and up projections."""
    return (
        *linear(f"{name}.gate_proj", hidden, inner, bias),
        *linear(f"{name}.up_proj", hidden, inner, bias),
        *linear(f"{name}.down_proj", inner, hidden, bias),
    )


def block_norms(hidden: int) -> Parameters:
    """The two norms of a layer."""
    return *rms_norm("input_layernorm", hidden), *rms_norm("post_attention_layernorm", hidden)


def experts(count: int, hidden: int, inner: int) -> Parameters:
    """All experts' weights of a layer, stacked: gate and up fused, then down."""
    return (
        *free("mlp.experts.gate_up_proj", count, 2 * inner, hidden),
        *free("mlp.experts.down_proj", count, hidden, inner),
    )


def decoder(
    c: DecoderConfig, task: str, layers: Stages, tables: Buffers | None = None, stem_buffers: Buffers = ()
) -> Stages:
    """Embedding, the given layers, the last norm, the head, and the rotary tables (None: one over all of a head)."""
    head = decoder_head(task, c.hidden_size, c.vocab_size, c.num_labels, ties(c, task))
    return (
        root(embedding("model.embed_tokens", c.vocab_size, c.hidden_size), stem_buffers),
        *layers,
        root(
            (*rms_norm("model.norm", c.hidden_size), *head),
            rotary("model.rotary_emb", c.head_width) if tables is None else tables,
        ),
    )

"""Gemma, Gemma 2 and the text part of Gemma 3: scaled embeddings and a tied head.

The later two have four norms a layer, and sliding and full attention in turn.

Source: transformers 5.23: models/{gemma,gemma2,gemma3}/{configuration,modeling}_*.py.
"""

from __future__ import annotations

from typing import ClassVar

from memprof.catalog.architectures.decoder import DecoderConfig, attention, block_norms, decoder, gated_mlp
from memprof.catalog.architectures.family import Count, Depth, Family, layer_types
from memprof.catalog.architectures.parts import Stages, rms_norm, rotary
from memprof.model.architecture import Buffer, Stage


class GemmaConfig(DecoderConfig, kw_only=True):
    model_type: str = "gemma"
    vocab_size: Count = 256000
    hidden_size: Count = 3072
    intermediate_size: Count = 24576
    num_hidden_layers: Depth = 28
    num_attention_heads: Count = 16
    num_key_value_heads: Count | None = 16
    head_dim: Count | None = 256
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: Count = 8192
    attention_bias: bool = False
    tie_word_embeddings: bool = True


class Gemma2Config(DecoderConfig, kw_only=True):
    model_type: str = "gemma2"
    vocab_size: Count = 256000
    hidden_size: Count = 2304
    intermediate_size: Count = 9216
    num_hidden_layers: Depth = 26
    num_attention_heads: Count = 8
    num_key_value_heads: Count | None = 4
    head_dim: Count | None = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: Count = 8192
    attention_bias: bool = False
    query_pre_attn_scalar: int = 256
    sliding_window: Count | None = 4096
    layer_types: list[str] | None = None
    final_logit_softcapping: float | None = 30.0
    attn_logit_softcapping: float | None = 50.0
    tie_word_embeddings: bool = True

    @property
    def full_attention_every(self) -> int:
        return 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.layer_types = layer_types(
            self.layer_types, self.num_hidden_layers, lambda layer: (layer + 1) % self.full_attention_every != 0
        )


class Gemma3Config(Gemma2Config, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = ("causal-lm", "sequence-classification")

    model_type: str = "gemma3_text"
    vocab_size: Count = 262208
    max_position_embeddings: Count = 131072
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: float | None = None
    sliding_window_pattern: Count = 6

    @property
    def full_attention_every(self) -> int:
        return self.sliding_window_pattern


def stages(c: GemmaConfig | Gemma2Config, task: str) -> Stages:
    block = (
        *attention(c, qkv_bias=c.attention_bias, out_bias=c.attention_bias, qk_norm=isinstance(c, Gemma3Config)),
        *gated_mlp("mlp", c.hidden_size, c.intermediate_size),
        *block_norms(c.hidden_size),
    )
    if isinstance(c, Gemma2Config):
        block += rms_norm("pre_feedforward_layernorm", c.hidden_size)
        block += rms_norm("post_feedforward_layernorm", c.hidden_size)
    tables = None
    if isinstance(c, Gemma3Config):  # a rotary base for each kind of attention that occurs
        kinds = sorted(set(c.layer_types or ()))
        tables = tuple(table for kind in kinds for table in rotary("model.rotary_emb", c.head_width, f"{kind}_"))
    scale = Buffer("model.embed_tokens.embed_scale", ())
    return decoder(c, task, (Stage("model.layers.*", c.num_hidden_layers, block),), tables, (scale,))


FAMILY = Family(
    configs={"gemma": GemmaConfig, "gemma2": Gemma2Config, "gemma3_text": Gemma3Config},
    stages=stages,
)

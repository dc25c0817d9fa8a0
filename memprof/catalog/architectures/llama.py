"""Llama and the decoders shaped like it: Mistral, Qwen 2 and 3, Granite, Phi-3.

Source: transformers 5.23: models/{llama,mistral,qwen2,qwen3,granite,phi3}/{configuration,modeling}_*.py.
"""

from __future__ import annotations

from memprof.catalog.architectures.family import Config, Count, Depth, Family, Rate, layer_types, per_head, ties
from memprof.catalog.architectures.parts import (
    Parameters,
    Stages,
    decoder_head,
    embedding,
    linear,
    rms_norm,
    root,
    rotary,
)
from memprof.model.architecture import Stage

HEADS = ("causal-lm", "sequence-classification", "token-classification")


class DecoderConfig(Config, kw_only=True):
    """What every decoder of this shape says of itself."""

    vocab_size: Count = 32000
    hidden_size: Count = 4096
    intermediate_size: Count = 11008
    num_hidden_layers: Depth = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    hidden_act: str = "silu"
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
    def query_width(self) -> int:
        return self.num_attention_heads * (self.head_dim or 0)

    @property
    def key_width(self) -> int:
        return (self.num_key_value_heads or 0) * (self.head_dim or 0)


class LlamaConfig(DecoderConfig, kw_only=True):
    model_type: str = "llama"
    attention_bias: bool = False
    mlp_bias: bool = False


class GraniteConfig(LlamaConfig, kw_only=True):
    model_type: str = "granite"
    embedding_multiplier: float = 1.0
    logits_scaling: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float = 1.0


class MistralConfig(DecoderConfig, kw_only=True):
    model_type: str = "mistral"
    intermediate_size: Count = 14336
    num_key_value_heads: Count | None = 8
    max_position_embeddings: Count = 131072
    sliding_window: Count | None = 4096


class Qwen2Config(DecoderConfig, kw_only=True):
    """Qwen 2 and 2.5; a ``sliding_window`` counts only under ``use_sliding_window``."""

    model_type: str = "qwen2"
    vocab_size: Count = 151936
    intermediate_size: Count = 22016
    num_key_value_heads: Count | None = 32
    max_position_embeddings: Count = 32768
    use_sliding_window: bool = False
    sliding_window: Count | None = 4096
    max_window_layers: int = 28
    layer_types: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        window = self.sliding_window = self.sliding_window if self.use_sliding_window else None
        first = self.max_window_layers
        self.layer_types = layer_types(
            self.layer_types, self.num_hidden_layers, lambda layer: window is not None and layer >= first
        )


class Qwen3Config(Qwen2Config, kw_only=True):
    model_type: str = "qwen3"
    head_dim: Count | None = 128
    attention_bias: bool = False


class Phi3Config(DecoderConfig, kw_only=True):
    model_type: str = "phi3"
    vocab_size: Count = 32064
    hidden_size: Count = 3072
    intermediate_size: Count = 8192
    max_position_embeddings: Count = 4096
    original_max_position_embeddings: Count = 4096
    rms_norm_eps: float = 1e-5
    resid_pdrop: Rate = 0.0
    embd_pdrop: Rate = 0.0
    sliding_window: Count | None = None
    partial_rotary_factor: Rate = 1.0


def attention(c: DecoderConfig, *, qkv_bias: bool = False, out_bias: bool = False, qk_norm: bool = False) -> Parameters:
    """``self_attn`` with separate projections; norms over a head's channels where the family has them."""
    head_dim = c.head_dim or 0
    return (
        *linear("self_attn.q_proj", c.hidden_size, c.query_width, qkv_bias),
        *linear("self_attn.k_proj", c.hidden_size, c.key_width, qkv_bias),
        *linear("self_attn.v_proj", c.hidden_size, c.key_width, qkv_bias),
        *linear("self_attn.o_proj", c.query_width, c.hidden_size, out_bias),
        *((*rms_norm("self_attn.q_norm", head_dim), *rms_norm("self_attn.k_norm", head_dim)) if qk_norm else ()),
    )


def gated_mlp(name: str, hidden: int, inner: int, bias: bool = False) -> Parameters:
    """The gated feed-forward with separate gate and up projections."""
    return (
        *linear(f"{name}.gate_proj", hidden, inner, bias),
        *linear(f"{name}.up_proj", hidden, inner, bias),
        *linear(f"{name}.down_proj", inner, hidden, bias),
    )


def block_norms(hidden: int) -> Parameters:
    return *rms_norm("input_layernorm", hidden), *rms_norm("post_attention_layernorm", hidden)


def block(c: DecoderConfig) -> Parameters:
    """One decoder layer of the model types above."""
    if isinstance(c, Phi3Config):
        body = (
            *linear("self_attn.o_proj", c.query_width, c.hidden_size),
            *linear("self_attn.qkv_proj", c.hidden_size, c.query_width + 2 * c.key_width),
            *linear("mlp.gate_up_proj", c.hidden_size, 2 * c.intermediate_size),
            *linear("mlp.down_proj", c.intermediate_size, c.hidden_size),
        )
        return *body, *block_norms(c.hidden_size)
    if isinstance(c, Qwen3Config):
        attn = attention(c, qkv_bias=c.attention_bias, out_bias=c.attention_bias, qk_norm=True)
    elif isinstance(c, Qwen2Config):
        attn = attention(c, qkv_bias=True)
    elif isinstance(c, LlamaConfig):
        attn = attention(c, qkv_bias=c.attention_bias, out_bias=c.attention_bias)
    else:
        attn = attention(c)
    mlp_bias = isinstance(c, LlamaConfig) and c.mlp_bias
    return *attn, *gated_mlp("mlp", c.hidden_size, c.intermediate_size, mlp_bias), *block_norms(c.hidden_size)


def rotary_dim(c: DecoderConfig) -> int:
    """Channels of a head that are rotated."""
    return int((c.head_dim or 0) * (c.partial_rotary_factor if isinstance(c, Phi3Config) else 1))


def decoder(c: DecoderConfig, task: str, layers: Stages) -> Stages:
    """Embedding, the given layers, the last norm, the head, and the rotary tables."""
    return (
        root(embedding("model.embed_tokens", c.vocab_size, c.hidden_size)),
        *layers,
        root(
            (
                *rms_norm("model.norm", c.hidden_size),
                *decoder_head(task, c.hidden_size, c.vocab_size, c.num_labels, ties(c, task)),
            ),
            rotary("model.rotary_emb", rotary_dim(c)),
        ),
    )


def stages(c: DecoderConfig, task: str) -> Stages:
    return decoder(c, task, (Stage("model.layers.*", c.num_hidden_layers, block(c)),))


FAMILY = Family(
    configs={
        "llama": LlamaConfig,
        "mistral": MistralConfig,
        "qwen2": Qwen2Config,
        "qwen3": Qwen3Config,
        "granite": GraniteConfig,
        "phi3": Phi3Config,
    },
    heads=HEADS,
    stages=stages,
)

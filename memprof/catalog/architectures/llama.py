"""Llama and the decoders shaped like it: Mistral, Qwen 2 and 3, Granite, SmolLM 3, Phi-3.

Source: transformers 5.23: models/{llama,mistral,qwen2,qwen3,granite,smollm3,phi3}/{configuration,modeling}_*.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

from memprof.catalog.architectures.decoder import DecoderConfig, attention, block_norms, decoder, gated_mlp
from memprof.catalog.architectures.family import Count, Depth, Family, Rate, layer_types, rotated
from memprof.catalog.architectures.parts import Parameters, Stages, linear, rotary
from memprof.model.architecture import Stage


class LlamaConfig(DecoderConfig, kw_only=True):
    model_type: str = "llama"
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False


class GraniteConfig(LlamaConfig, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = ("causal-lm",)

    model_type: str = "granite"
    embedding_multiplier: float = 1.0
    logits_scaling: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float = 1.0


class SmolLM3Config(LlamaConfig, kw_only=True):
    """A layer with a 0 in ``no_rope_layers`` does not rotate; only those slide, under ``use_sliding_window``."""

    model_type: str = "smollm3"
    vocab_size: Count = 128256
    hidden_size: Count = 2048
    num_hidden_layers: Depth = 36
    num_attention_heads: Count = 16
    num_key_value_heads: Count | None = 4
    max_position_embeddings: Count = 32768
    use_sliding_window: bool = False
    sliding_window: Count | None = None
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: Count = 4
    layer_types: list[str] | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        depth, interval = self.num_hidden_layers, self.no_rope_layer_interval
        if self.no_rope_layers is None:
            self.no_rope_layers = [int((layer + 1) % interval != 0) for layer in range(depth)]
        rotates = self.no_rope_layers
        if len(rotates) < depth:
            raise ValueError(f"no_rope_layers names {len(rotates)} layers, num_hidden_layers is {depth}")
        slides = self.use_sliding_window and self.sliding_window is not None
        self.layer_types = layer_types(self.layer_types, depth, lambda layer: slides and not rotates[layer])


class MistralConfig(DecoderConfig, kw_only=True):
    model_type: str = "mistral"
    intermediate_size: Count = 14336
    num_key_value_heads: Count | None = 8
    hidden_act: str = "silu"
    max_position_embeddings: Count = 131072
    sliding_window: Count | None = 4096


class Qwen2Config(DecoderConfig, kw_only=True):
    """Qwen 2 and 2.5; a ``sliding_window`` counts only under ``use_sliding_window``."""

    model_type: str = "qwen2"
    vocab_size: Count = 151936
    intermediate_size: Count = 22016
    num_key_value_heads: Count | None = 32
    hidden_act: str = "silu"
    max_position_embeddings: Count = 32768
    use_sliding_window: bool = False
    sliding_window: Count | None = 4096
    max_window_layers: int = 28
    layer_types: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.use_sliding_window:
            self.sliding_window = None
        self.layer_types = layer_types(
            self.layer_types,
            self.num_hidden_layers,
            lambda layer: self.sliding_window is not None and layer >= self.max_window_layers,
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
    hidden_act: str = "silu"
    max_position_embeddings: Count = 4096
    original_max_position_embeddings: Count = 4096
    rms_norm_eps: float = 1e-5
    resid_pdrop: Rate = 0.0
    embd_pdrop: Rate = 0.0
    sliding_window: Count | None = None
    partial_rotary_factor: Rate = 1.0
    rope_parameters: dict[str, Any] | None = None


def _block(c: DecoderConfig) -> Parameters:
    if isinstance(c, Qwen3Config):
        attn = attention(c, qkv_bias=c.attention_bias, out_bias=c.attention_bias, qk_norm=True)
    elif isinstance(c, LlamaConfig):
        attn = attention(c, qkv_bias=c.attention_bias, out_bias=c.attention_bias)
    else:
        attn = attention(c, qkv_bias=isinstance(c, Qwen2Config))
    mlp_bias = isinstance(c, LlamaConfig) and c.mlp_bias
    return *attn, *gated_mlp("mlp", c.hidden_size, c.intermediate_size, mlp_bias), *block_norms(c.hidden_size)


def _fused_block(c: Phi3Config) -> Parameters:
    return (
        *linear("self_attn.o_proj", c.query_width, c.hidden_size),
        *linear("self_attn.qkv_proj", c.hidden_size, c.query_width + 2 * c.key_width),
        *linear("mlp.gate_up_proj", c.hidden_size, 2 * c.intermediate_size),
        *linear("mlp.down_proj", c.intermediate_size, c.hidden_size),
        *block_norms(c.hidden_size),
    )


def stages(c: DecoderConfig, task: str) -> Stages:
    if isinstance(c, Phi3Config):
        width = rotated(c.head_width, c.partial_rotary_factor, c.rope_parameters)
        layers = Stage("model.layers.*", c.num_hidden_layers, _fused_block(c))
        return decoder(c, task, (layers,), rotary("model.rotary_emb", width))
    return decoder(c, task, (Stage("model.layers.*", c.num_hidden_layers, _block(c)),))


FAMILY = Family(
    configs={
        "llama": LlamaConfig,
        "mistral": MistralConfig,
        "qwen2": Qwen2Config,
        "qwen3": Qwen3Config,
        "granite": GraniteConfig,
        "smollm3": SmolLM3Config,
        "phi3": Phi3Config,
    },
    stages=stages,
)

"""StableLM 3B and 2: a llama with layer norms, of which only a part of each head is rotated.

Source: transformers 5.23: models/stablelm/{configuration,modeling}_stablelm.py.
"""

from __future__ import annotations

from typing import Any, cast

from memprof.catalog.architectures.decoder import DecoderConfig, attention, gated_mlp
from memprof.catalog.architectures.family import Count, Depth, Family, Rate, per_head, rotated, ties
from memprof.catalog.architectures.parts import Parameters, Stages, decoder_head, embedding, layer_norm, root, rotary
from memprof.model.architecture import Stage


class StableLmConfig(DecoderConfig, kw_only=True):
    model_type: str = "stablelm"
    vocab_size: Count = 50304
    hidden_size: Count = 2560
    intermediate_size: Count = 6912
    num_hidden_layers: Depth = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count | None = 32
    hidden_act: str = "silu"
    max_position_embeddings: Count = 4096
    layer_norm_eps: float = 1e-5
    partial_rotary_factor: Rate = 0.25
    rope_parameters: dict[str, Any] | None = None
    use_qkv_bias: bool = False
    qk_layernorm: bool = False
    use_parallel_residual: bool = False
    hidden_dropout: Rate = 0.0

    def __post_init__(self) -> None:
        self.head_dim = per_head(self.hidden_size, self.num_attention_heads)
        super().__post_init__()


def _head_norms(name: str, heads: int, width: int) -> Parameters:
    """A norm for each head, without biases."""
    return tuple(norm for head in range(heads) for norm in layer_norm(f"{name}.norms.{head}", width, bias=False))


def _block(c: StableLmConfig) -> Parameters:
    head_norms = (
        *_head_norms("self_attn.q_layernorm", c.num_attention_heads, c.head_width),
        *_head_norms("self_attn.k_layernorm", cast(int, c.num_key_value_heads), c.head_width),
    )
    return (
        *attention(c, qkv_bias=c.use_qkv_bias),
        *(head_norms if c.qk_layernorm else ()),
        *gated_mlp("mlp", c.hidden_size, c.intermediate_size),
        *layer_norm("input_layernorm", c.hidden_size),
        *(() if c.use_parallel_residual else layer_norm("post_attention_layernorm", c.hidden_size)),
    )


def stages(c: StableLmConfig, task: str) -> Stages:
    head = decoder_head(task, c.hidden_size, c.vocab_size, c.num_labels, ties(c, task))
    return (
        root(embedding("model.embed_tokens", c.vocab_size, c.hidden_size)),
        Stage("model.layers.*", c.num_hidden_layers, _block(c)),
        root(
            (*layer_norm("model.norm", c.hidden_size), *head),
            rotary("model.rotary_emb", rotated(c.head_width, c.partial_rotary_factor, c.rope_parameters)),
        ),
    )


FAMILY = Family(configs={"stablelm": StableLmConfig}, stages=stages)

"""Decoders with a mixture of experts: Mixtral and Qwen 3 MoE. All experts of a layer are one stacked weight.

Source: transformers 5.23: models/{mixtral,qwen3_moe}/{configuration,modeling}_*.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import ClassVar

from memprof.catalog.architectures.decoder import (
    DecoderConfig,
    attention,
    block_norms,
    decoder,
    experts,
    gated_mlp,
)
from memprof.catalog.architectures.family import Count, Depth, Family
from memprof.catalog.architectures.parts import Stages, free
from memprof.model.architecture import Stage


class MixtureConfig(DecoderConfig, kw_only=True):
    """What both say of their experts."""

    spellings: ClassVar[Mapping[str, str]] = {"num_experts": "num_local_experts"}

    hidden_act: str = "silu"
    num_experts_per_tok: Count = 2
    num_local_experts: Count = 8
    sliding_window: Count | None = None
    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.001


class MixtralConfig(MixtureConfig, kw_only=True):
    model_type: str = "mixtral"
    intermediate_size: Count = 14336
    num_key_value_heads: Count | None = 8
    max_position_embeddings: Count = 131072
    rms_norm_eps: float = 1e-5
    router_jitter_noise: float = 0.0


class Qwen3MoeConfig(MixtureConfig, kw_only=True):
    model_type: str = "qwen3_moe"
    vocab_size: Count = 151936
    hidden_size: Count = 2048
    intermediate_size: Count = 6144
    num_hidden_layers: Depth = 24
    num_key_value_heads: Count | None = 4
    max_position_embeddings: Count = 32768
    attention_bias: bool = False
    use_sliding_window: bool = False
    decoder_sparse_step: Count = 1
    moe_intermediate_size: Count = 768
    num_experts_per_tok: Count = 8
    num_local_experts: Count = 128
    norm_topk_prob: bool = False
    mlp_only_layers: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.use_sliding_window:
            self.sliding_window = None
        self.mlp_only_layers = self.mlp_only_layers or []

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer's feed-forward is a mixture of experts."""
        return layer not in (self.mlp_only_layers or ()) and (layer + 1) % self.decoder_sparse_step == 0


def stages(c: MixtureConfig, task: str) -> Stages:
    layers = _qwen3_layers(c) if isinstance(c, Qwen3MoeConfig) else _mixtral_layers(c)
    return decoder(c, task, layers)


def _mixtral_layers(c: MixtureConfig) -> Stages:
    block = (
        *attention(c),
        *free("mlp.gate.weight", c.num_local_experts, c.hidden_size),
        *experts(c.num_local_experts, c.hidden_size, c.intermediate_size),
        *block_norms(c.hidden_size),
    )
    return (Stage("model.layers.*", c.num_hidden_layers, block),)


def _qwen3_layers(c: Qwen3MoeConfig) -> Stages:
    attn = attention(c, qkv_bias=c.attention_bias, out_bias=c.attention_bias, qk_norm=True)
    dense = gated_mlp("mlp", c.hidden_size, c.intermediate_size)
    sparse = (
        *experts(c.num_local_experts, c.hidden_size, c.moe_intermediate_size),
        *free("mlp.gate.weight", c.num_local_experts, c.hidden_size),
    )
    return tuple(
        Stage("model.layers.*", len(list(run)), (*attn, *(sparse if is_sparse else dense), *block_norms(c.hidden_size)))
        for is_sparse, run in groupby(range(c.num_hidden_layers), c.is_sparse)
    )


FAMILY = Family(configs={"mixtral": MixtralConfig, "qwen3_moe": Qwen3MoeConfig}, stages=stages)

"""DeepSeek V2 and V3: latent attention, the first layers dense, the others shared and routed experts.

The multi-token-prediction layer of V3 is not part of the library's model.

Source: transformers 5.23: models/{deepseek_v2,deepseek_v3}/{configuration,modeling}_*.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from memprof.catalog.architectures.decoder import DecoderConfig, block_norms, decoder, experts, gated_mlp
from memprof.catalog.architectures.family import Count, Depth, Family
from memprof.catalog.architectures.parts import Parameters, Stages, free, linear, rms_norm
from memprof.model.architecture import Buffer, Stage


class DeepseekConfig(DecoderConfig, kw_only=True):
    """What both versions say of themselves; ``head_dim`` is that of the rotated part."""

    hidden_act: str = "silu"
    attention_bias: bool = False
    first_k_dense_replace: int = 0
    kv_lora_rank: Count = 512
    q_lora_rank: Count | None = 1536
    qk_nope_head_dim: Count = 128
    qk_rope_head_dim: Count = 64
    v_head_dim: Count = 128
    moe_intermediate_size: Count = 1407
    n_routed_experts: Count = 64
    n_shared_experts: Count = 2
    n_group: Count | None = None
    topk_group: Count | None = None
    num_experts_per_tok: Count | None = None
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        self.head_dim = self.qk_rope_head_dim
        super().__post_init__()


class DeepseekV2Config(DeepseekConfig, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = ("causal-lm", "sequence-classification")
    spellings: ClassVar[Mapping[str, str]] = {"num_experts": "n_routed_experts"}

    model_type: str = "deepseek_v2"
    vocab_size: Count = 102400
    mlp_bias: bool = False
    topk_method: str = "greedy"


class DeepseekV3Config(DeepseekConfig, kw_only=True):
    spellings: ClassVar[Mapping[str, str]] = {"num_local_experts": "n_routed_experts"}

    model_type: str = "deepseek_v3"
    vocab_size: Count = 129280
    hidden_size: Count = 7168
    intermediate_size: Count = 18432
    moe_intermediate_size: Count = 2048
    num_hidden_layers: Depth = 61
    num_attention_heads: Count = 128
    num_key_value_heads: Count | None = 128
    max_position_embeddings: Count = 4096
    first_k_dense_replace: int = 3
    n_routed_experts: Count = 256
    n_shared_experts: Count = 1
    n_group: Count | None = 8
    topk_group: Count | None = 4
    num_experts_per_tok: Count | None = 8
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.5


def _latent_attention(c: DeepseekConfig) -> Parameters:
    hidden, heads, bias = c.hidden_size, c.num_attention_heads, c.attention_bias
    query_width = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)
    if c.q_lora_rank is None:
        query = linear("self_attn.q_proj", hidden, query_width)
    else:
        query = (
            *linear("self_attn.q_a_proj", hidden, c.q_lora_rank, bias),
            *rms_norm("self_attn.q_a_layernorm", c.q_lora_rank),
            *linear("self_attn.q_b_proj", c.q_lora_rank, query_width),
        )
    return (
        *query,
        *linear("self_attn.kv_a_proj_with_mqa", hidden, c.kv_lora_rank + c.qk_rope_head_dim, bias),
        *rms_norm("self_attn.kv_a_layernorm", c.kv_lora_rank),
        *linear("self_attn.kv_b_proj", c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim)),
        *linear("self_attn.o_proj", heads * c.v_head_dim, hidden, bias),
    )


def stages(c: DeepseekConfig, task: str) -> Stages:
    hidden = c.hidden_size
    version3 = isinstance(c, DeepseekV3Config)
    mlp_bias = isinstance(c, DeepseekV2Config) and c.mlp_bias
    dense = gated_mlp("mlp", hidden, c.intermediate_size, mlp_bias)
    sparse = (
        *experts(c.n_routed_experts, hidden, c.moe_intermediate_size),
        *free("mlp.gate.weight", c.n_routed_experts, hidden),
        *gated_mlp("mlp.shared_experts", hidden, c.moe_intermediate_size * c.n_shared_experts, mlp_bias),
    )
    correction = (Buffer("mlp.gate.e_score_correction_bias", (c.n_routed_experts,)),) if version3 else ()
    num_dense = min(max(c.first_k_dense_replace, 0), c.num_hidden_layers)
    layers = (
        Stage("model.layers.*", num_dense, (*_latent_attention(c), *dense, *block_norms(hidden))),
        Stage(
            "model.layers.*",
            c.num_hidden_layers - num_dense,
            (*_latent_attention(c), *sparse, *block_norms(hidden)),
            correction,
        ),
    )
    return decoder(c, task, tuple(stage for stage in layers if stage.count))


FAMILY = Family(
    configs={"deepseek_v2": DeepseekV2Config, "deepseek_v3": DeepseekV3Config},
    stages=stages,
)

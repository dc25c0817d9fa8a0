"""GPT-Neo: GPT-2's shape with plain linears, biasless query, key and value, and a causal mask kept in each layer.

Source: transformers 5.23: models/gpt_neo/{configuration,modeling}_gpt_neo.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from memprof.catalog.architectures.family import CAUSAL_HEADS, Count, Depth, Family, LanguageConfig, Rate, per_head
from memprof.catalog.architectures.gpt2 import gpt_head, gpt_stages
from memprof.catalog.architectures.parts import Stages, layer_norm, linear
from memprof.model.architecture import Buffer, Stage


class GPTNeoConfig(LanguageConfig, kw_only=True):
    """``attention_types`` is run-length coded: [[["global", "local"], 12]] means 24 layers."""

    heads: ClassVar[tuple[str, ...]] = CAUSAL_HEADS
    spellings: ClassVar[Mapping[str, str]] = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}

    model_type: str = "gpt_neo"
    vocab_size: Count = 50257
    max_position_embeddings: Count = 2048
    hidden_size: Count = 2048
    num_layers: Depth = 24
    attention_types: list[tuple[list[str], Depth]] | None = None
    num_heads: Count = 16
    intermediate_size: Count | None = None
    window_size: Count = 256
    activation_function: str = "gelu_new"
    resid_dropout: Rate = 0.0
    embed_dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    classifier_dropout: Rate = 0.1
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        per_head(self.hidden_size, self.num_heads)
        if self.attention_types is None:
            self.attention_types = [(["global", "local"], 12)]
        depth = sum(len(kinds) * repeats for kinds, repeats in self.attention_types)
        if depth != self.num_layers:
            raise ValueError(f"attention_types names {depth} layers, num_layers is {self.num_layers}")


def stages(c: GPTNeoConfig, task: str) -> Stages:
    width, inner = c.hidden_size, c.intermediate_size or 4 * c.hidden_size
    positions = c.max_position_embeddings
    block = (
        *layer_norm("ln_1", width),
        *linear("attn.attention.k_proj", width, width),
        *linear("attn.attention.v_proj", width, width),
        *linear("attn.attention.q_proj", width, width),
        *linear("attn.attention.out_proj", width, width, bias=True),
        *layer_norm("ln_2", width),
        *linear("mlp.c_fc", width, inner, bias=True),
        *linear("mlp.c_proj", inner, width, bias=True),
    )
    mask = Buffer("attn.attention.bias", (1, 1, positions, positions), "bool")
    layers = Stage("transformer.h.*", c.num_layers, block, (mask,))
    return gpt_stages(c.vocab_size, positions, layers, width, gpt_head(c, task, width, c.vocab_size))


FAMILY = Family(
    configs={"gpt_neo": GPTNeoConfig},
    stages=stages,
)

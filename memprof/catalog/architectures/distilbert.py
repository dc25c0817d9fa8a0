"""DistilBERT: BERT's encoder without token types or pooler, under names of its own.

Source: transformers 5.23: models/distilbert/{configuration,modeling}_distilbert.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from memprof.catalog.architectures.family import (
    MASKED_HEADS,
    Count,
    Depth,
    Family,
    LanguageConfig,
    Rate,
    per_head,
    ties,
)
from memprof.catalog.architectures.parts import Parameters, Stages, embedding, layer_norm, linear, root
from memprof.model.architecture import Buffer, Parameter, Stage


class DistilBertConfig(LanguageConfig, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = MASKED_HEADS
    spellings: ClassVar[Mapping[str, str]] = {
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    }

    model_type: str = "distilbert"
    vocab_size: Count = 30522
    max_position_embeddings: Count = 512
    sinusoidal_pos_embds: bool = False
    n_layers: Depth = 6
    n_heads: Count = 12
    dim: Count = 768
    hidden_dim: Count = 3072
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    activation: str = "gelu"
    seq_classif_dropout: Rate = 0.2

    def __post_init__(self) -> None:
        per_head(self.dim, self.n_heads, "dim")


def _head(c: DistilBertConfig, task: str) -> Parameters:
    width = c.dim
    if task == "masked-lm":
        bias = Parameter("vocab_projector.bias", (c.vocab_size,), "bias")
        return (
            *linear("vocab_transform", width, width, bias=True),
            *layer_norm("vocab_layer_norm", width),
            *((bias,) if ties(c, task) else linear("vocab_projector", width, c.vocab_size, bias=True)),
        )
    pre = linear("pre_classifier", width, width, bias=True) if task == "sequence-classification" else ()
    return *pre, *linear("classifier", width, c.num_labels, bias=True)


def stages(c: DistilBertConfig, task: str) -> Stages:
    at, width = "distilbert.embeddings", c.dim
    stem = (
        *embedding(f"{at}.word_embeddings", c.vocab_size, width),
        *embedding(f"{at}.position_embeddings", c.max_position_embeddings, width),
        *layer_norm(f"{at}.LayerNorm", width),
    )
    block = (
        *linear("attention.q_lin", width, width, bias=True),
        *linear("attention.k_lin", width, width, bias=True),
        *linear("attention.v_lin", width, width, bias=True),
        *linear("attention.out_lin", width, width, bias=True),
        *layer_norm("sa_layer_norm", width),
        *linear("ffn.lin1", width, c.hidden_dim, bias=True),
        *linear("ffn.lin2", c.hidden_dim, width, bias=True),
        *layer_norm("output_layer_norm", width),
    )
    return (
        root(stem, (Buffer(f"{at}.position_ids", (1, c.max_position_embeddings), "int64"),)),
        Stage("distilbert.transformer.layer.*", c.n_layers, block),
        root(_head(c, task)),
    )


FAMILY = Family(
    configs={"distilbert": DistilBertConfig},
    stages=stages,
)

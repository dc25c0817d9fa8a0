"""BERT, RoBERTa and Megatron-BERT: encoders with learned positions and a tied masked-language head.

Source: transformers 5.23: models/{bert,roberta,megatron_bert}/{configuration,modeling}_*.py.
"""

from __future__ import annotations

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


class BertConfig(LanguageConfig, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = MASKED_HEADS

    model_type: str = "bert"
    vocab_size: Count = 30522
    hidden_size: Count = 768
    num_hidden_layers: Depth = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    max_position_embeddings: Count = 512
    type_vocab_size: Count = 2
    layer_norm_eps: float = 1e-12
    classifier_dropout: Rate | None = None

    def __post_init__(self) -> None:
        per_head(self.hidden_size, self.num_attention_heads)


class RobertaConfig(BertConfig, kw_only=True):
    model_type: str = "roberta"
    vocab_size: Count = 50265


class MegatronBertConfig(BertConfig, kw_only=True):
    """BERT with its norms before attention and feed-forward, and one at the end."""

    model_type: str = "megatron-bert"
    vocab_size: Count = 29056
    hidden_size: Count = 1024
    num_hidden_layers: Depth = 24
    num_attention_heads: Count = 16
    intermediate_size: Count = 4096


def _embeddings(c: BertConfig) -> Parameters:
    at, width = "bert.embeddings", c.hidden_size
    words = embedding(f"{at}.word_embeddings", c.vocab_size, width)
    positions = embedding(f"{at}.position_embeddings", c.max_position_embeddings, width)
    types = embedding(f"{at}.token_type_embeddings", c.type_vocab_size, width)
    if isinstance(c, MegatronBertConfig):
        return *words, *positions, *types
    return *words, *positions, *types, *layer_norm(f"{at}.LayerNorm", width)


def _roberta_embeddings(c: RobertaConfig) -> Parameters:
    at, width = "roberta.embeddings", c.hidden_size
    return (
        *embedding(f"{at}.word_embeddings", c.vocab_size, width),
        *embedding(f"{at}.token_type_embeddings", c.type_vocab_size, width),
        *layer_norm(f"{at}.LayerNorm", width),
        *embedding(f"{at}.position_embeddings", c.max_position_embeddings, width),
    )


def _block(c: BertConfig) -> Parameters:
    width, inner = c.hidden_size, c.intermediate_size
    attention = (
        *linear("attention.self.query", width, width, bias=True),
        *linear("attention.self.key", width, width, bias=True),
        *linear("attention.self.value", width, width, bias=True),
        *linear("attention.output.dense", width, width, bias=True),
    )
    up = linear("intermediate.dense", width, inner, bias=True)
    down = linear("output.dense", inner, width, bias=True)
    if isinstance(c, MegatronBertConfig):
        return *layer_norm("attention.ln", width), *attention, *layer_norm("ln", width), *up, *down
    attention_norm = layer_norm("attention.output.LayerNorm", width)
    return *attention, *attention_norm, *up, *down, *layer_norm("output.LayerNorm", width)


def _language_head(c: BertConfig) -> Parameters:
    width, roberta = c.hidden_size, isinstance(c, RobertaConfig)
    at = "lm_head" if roberta else "cls.predictions"
    dense, norm = ("dense", "layer_norm") if roberta else ("transform.dense", "transform.LayerNorm")
    return (
        Parameter(f"{at}.bias", (c.vocab_size,), "bias"),
        *linear(f"{at}.{dense}", width, width, bias=True),
        *layer_norm(f"{at}.{norm}", width),
        *(() if ties(c, "masked-lm") else linear(f"{at}.decoder", width, c.vocab_size, bias=True)),
    )


def _head(c: BertConfig, task: str) -> Parameters:
    width = c.hidden_size
    classifier = linear("classifier", width, c.num_labels, bias=True)
    if task == "masked-lm":
        return _language_head(c)
    if task == "token-classification":
        return classifier
    if isinstance(c, RobertaConfig):
        dense = linear("classifier.dense", width, width, bias=True)
        return *dense, *linear("classifier.out_proj", width, c.num_labels, bias=True)
    return *linear("bert.pooler.dense", width, width, bias=True), *classifier


def stages(c: BertConfig, task: str) -> Stages:
    at = "roberta" if isinstance(c, RobertaConfig) else "bert"
    names = ("position_ids",) if isinstance(c, MegatronBertConfig) else ("position_ids", "token_type_ids")
    buffers = tuple(Buffer(f"{at}.embeddings.{name}", (1, c.max_position_embeddings), "int64") for name in names)
    last_norm = layer_norm("bert.encoder.ln", c.hidden_size) if isinstance(c, MegatronBertConfig) else ()
    return (
        root(_roberta_embeddings(c) if isinstance(c, RobertaConfig) else _embeddings(c), buffers),
        Stage(f"{at}.encoder.layer.*", c.num_hidden_layers, _block(c)),
        root((*last_norm, *_head(c, task))),
    )


FAMILY = Family(
    configs={"bert": BertConfig, "roberta": RobertaConfig, "megatron-bert": MegatronBertConfig},
    stages=stages,
)

"""T5 and Flan-T5: one embedding for encoder, decoder and head; the first layer of each stack holds the position bias.

The head shares the embedding whatever ``tie_word_embeddings`` says; the library reads that flag as "scale the outputs".

Source: transformers 5.23: models/t5/{configuration,modeling}_t5.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

from memprof.catalog.architectures.family import Count, Depth, Family, LanguageConfig, Rate
from memprof.catalog.architectures.parts import Parameters, Stages, embedding, linear, rms_norm, root
from memprof.model.architecture import Stage


class T5Config(LanguageConfig, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = ("seq2seq-lm", "sequence-classification", "token-classification")
    spellings: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }

    model_type: str = "t5"
    vocab_size: Count = 32128
    d_model: Count = 512
    d_kv: Count = 64
    d_ff: Count = 2048
    num_layers: Depth = 6
    num_decoder_layers: Depth | None = None
    num_heads: Count = 8
    relative_attention_num_buckets: Count = 32
    relative_attention_max_distance: Count = 128
    dropout_rate: Rate = 0.1
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    classifier_dropout: Rate = 0.0

    def __post_init__(self) -> None:
        if self.num_decoder_layers is None:
            self.num_decoder_layers = self.num_layers

    @property
    def shares_embedding(self) -> bool:
        return True


def _attention(c: T5Config, name: str, first: bool = False) -> Parameters:
    width = c.num_heads * c.d_kv
    bias = embedding(f"{name}.relative_attention_bias", c.relative_attention_num_buckets, c.num_heads)
    return (
        *linear(f"{name}.q", c.d_model, width),
        *linear(f"{name}.k", c.d_model, width),
        *linear(f"{name}.v", c.d_model, width),
        *linear(f"{name}.o", width, c.d_model),
        *(bias if first else ()),
    )


def _feed_forward(c: T5Config, name: str) -> Parameters:
    gated = c.feed_forward_proj.startswith("gated-")
    ups = [f"{name}.wi_0", f"{name}.wi_1"] if gated else [f"{name}.wi"]
    return (
        *(weight for up in ups for weight in linear(up, c.d_model, c.d_ff)),
        *linear(f"{name}.wo", c.d_ff, c.d_model),
    )


def _block(c: T5Config, decoder: bool, first: bool) -> Parameters:
    parts = [_attention(c, "layer.0.SelfAttention", first)]
    if decoder:
        parts.append(_attention(c, "layer.1.EncDecAttention"))
    parts.append(_feed_forward(c, f"layer.{len(parts)}.DenseReluDense"))
    return tuple(
        parameter
        for index, part in enumerate(parts)
        for parameter in (*part, *rms_norm(f"layer.{index}.layer_norm", c.d_model))
    )


def _stack(c: T5Config, name: str, depth: int, decoder: bool) -> Stages:
    layers = (
        Stage(f"{name}.block.*", 1, _block(c, decoder, first=True)),
        Stage(f"{name}.block.*", depth - 1, _block(c, decoder, first=False)),
        root(rms_norm(f"{name}.final_layer_norm", c.d_model)),
    )
    return tuple(stage for stage in layers if stage.count)


def _head(c: T5Config, task: str) -> Stages:
    if task == "seq2seq-lm":
        return ()
    if task == "token-classification":
        return (root(linear("classifier", c.d_model, c.num_labels, bias=True)),)
    dense = linear("classification_head.dense", c.d_model, c.d_model, bias=True)
    return (root((*dense, *linear("classification_head.out_proj", c.d_model, c.num_labels, bias=True))),)


def stages(c: T5Config, task: str) -> Stages:
    at = "" if task == "seq2seq-lm" else "transformer."
    encoder = _stack(c, f"{at}encoder", c.num_layers, decoder=False)
    decoder = _stack(c, f"{at}decoder", cast(int, c.num_decoder_layers), decoder=True)
    return (
        root(embedding(f"{at}shared", c.vocab_size, c.d_model)),
        *encoder,
        *(() if task == "token-classification" else decoder),
        *_head(c, task),
    )


FAMILY = Family(
    configs={"t5": T5Config},
    stages=stages,
)

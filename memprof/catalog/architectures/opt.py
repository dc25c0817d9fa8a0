"""OPT: learned positions (with two rows more), ReLU, a tied head; the last norm is registered before the layers.

Source: transformers 5.23: models/opt/{configuration,modeling}_opt.py.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from memprof.catalog.architectures.family import Count, Depth, Family, LanguageConfig, Rate, per_head, ties
from memprof.catalog.architectures.parts import Parameters, Stages, decoder_head, embedding, layer_norm, linear, root
from memprof.model.architecture import Stage


class OPTConfig(LanguageConfig, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = ("causal-lm", "sequence-classification")

    model_type: str = "opt"
    vocab_size: Count = 50272
    hidden_size: Count = 768
    num_hidden_layers: Depth = 12
    ffn_dim: Count = 3072
    max_position_embeddings: Count = 2048
    do_layer_norm_before: bool = True
    remove_final_layer_norm: bool = msgspec.field(default=False, name="_remove_final_layer_norm")
    word_embed_proj_dim: Count | None = None
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.0
    num_attention_heads: Count = 12
    activation_function: str = "relu"
    layerdrop: Rate = 0.0
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True

    def __post_init__(self) -> None:
        per_head(self.hidden_size, self.num_attention_heads)
        if self.word_embed_proj_dim is None:
            self.word_embed_proj_dim = self.hidden_size


def _norm(c: OPTConfig, name: str) -> Parameters:
    return layer_norm(name, c.hidden_size) if c.layer_norm_elementwise_affine else ()


def stages(c: OPTConfig, task: str) -> Stages:
    width, embedded, bias = c.hidden_size, c.word_embed_proj_dim or c.hidden_size, c.enable_bias
    stem = (
        *embedding("model.decoder.embed_tokens", c.vocab_size, embedded),
        *embedding("model.decoder.embed_positions", c.max_position_embeddings + 2, width),
    )
    if embedded != width:
        project_out = linear("model.decoder.project_out", width, embedded)
        stem = (*stem, *project_out, *linear("model.decoder.project_in", embedded, width))
    if c.do_layer_norm_before and not c.remove_final_layer_norm:
        stem = (*stem, *_norm(c, "model.decoder.final_layer_norm"))
    block = (
        *linear("self_attn.k_proj", width, width, bias),
        *linear("self_attn.v_proj", width, width, bias),
        *linear("self_attn.q_proj", width, width, bias),
        *linear("self_attn.out_proj", width, width, bias),
        *_norm(c, "self_attn_layer_norm"),
        *linear("fc1", width, c.ffn_dim, bias),
        *linear("fc2", c.ffn_dim, width, bias),
        *_norm(c, "final_layer_norm"),
    )
    return (
        root(stem),
        Stage("model.decoder.layers.*", c.num_hidden_layers, block),
        root(decoder_head(task, embedded, c.vocab_size, c.num_labels, ties(c, task))),
    )


FAMILY = Family(configs={"opt": OPTConfig}, stages=stages)

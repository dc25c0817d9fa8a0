"""ViT: patches by a convolution, a class token, learned positions, a classifier.

Source: transformers 5.23: models/vit/{configuration,modeling}_vit.py.
"""

from __future__ import annotations

from typing import ClassVar

from memprof.catalog.architectures.family import Config, Count, Depth, Family, Rate, per_head
from memprof.catalog.architectures.parts import Stages, conv2d, free, layer_norm, linear, root
from memprof.model.architecture import Stage


class ViTConfig(Config, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = ("image-classification",)

    model_type: str = "vit"
    hidden_size: Count = 768
    num_hidden_layers: Depth = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: Rate = 0.0
    attention_probs_dropout_prob: Rate = 0.0
    layer_norm_eps: float = 1e-12
    image_size: Count = 224
    patch_size: Count = 16
    num_channels: Count = 3
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        per_head(self.hidden_size, self.num_attention_heads)


def stages(c: ViTConfig, _task: str) -> Stages:
    width = c.hidden_size
    num_patches = (c.image_size // c.patch_size) ** 2
    stem = (
        *free("vit.embeddings.cls_token", 1, 1, width),
        *free("vit.embeddings.position_embeddings", 1, num_patches + 1, width),
        *conv2d("vit.embeddings.patch_embeddings.projection", c.num_channels, width, c.patch_size),
    )
    block = (
        *linear("attention.q_proj", width, width, c.qkv_bias),
        *linear("attention.k_proj", width, width, c.qkv_bias),
        *linear("attention.v_proj", width, width, c.qkv_bias),
        *linear("attention.o_proj", width, width, bias=True),
        *layer_norm("layernorm_before", width),
        *layer_norm("layernorm_after", width),
        *linear("mlp.fc1", width, c.intermediate_size, bias=True),
        *linear("mlp.fc2", c.intermediate_size, width, bias=True),
    )
    head = linear("classifier", width, c.num_labels, bias=True)
    return (
        root(stem),
        Stage("vit.layers.*", c.num_hidden_layers, block),
        root((*layer_norm("vit.layernorm", width), *head)),
    )


FAMILY = Family(configs={"vit": ViTConfig}, stages=stages)

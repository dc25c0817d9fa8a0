"""GPT-2: ``Conv1D`` projections, learned positions, a tied head. Cerebras-GPT is the same model.

Source: transformers 5.23: models/gpt2/{configuration,modeling}_gpt2.py.
"""

from __future__ import annotations

from memprof.catalog.architectures.family import Config, Count, Depth, Family, Rate, per_head, ties
from memprof.catalog.architectures.parts import (
    Stages,
    conv1d,
    decoder_head,
    embedding,
    layer_norm,
    linear,
    root,
)
from memprof.model.architecture import Stage


class GPT2Config(Config, kw_only=True):
    model_type: str = "gpt2"
    vocab_size: Count = 50257
    n_positions: Count = 1024
    n_embd: Count = 768
    n_layer: Depth = 12
    n_head: Count = 12
    n_inner: Count | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: Rate = 0.1
    embd_pdrop: Rate = 0.1
    attn_pdrop: Rate = 0.1
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        per_head(self.n_embd, self.n_head, "n_embd")


def stages(c: GPT2Config, task: str) -> Stages:
    width = c.n_embd
    inner = c.n_inner or 4 * width
    block = (
        *layer_norm("ln_1", width),
        *conv1d("attn.c_attn", width, 3 * width),
        *conv1d("attn.c_proj", width, width),
        *layer_norm("ln_2", width),
        *conv1d("mlp.c_fc", width, inner),
        *conv1d("mlp.c_proj", inner, width),
    )
    if task == "token-classification":
        head = linear("classifier", width, c.num_labels, bias=True)
    else:
        head = decoder_head(task, width, c.vocab_size, c.num_labels, ties(c, task))
    return (
        root((*embedding("transformer.wte", c.vocab_size, width), *embedding("transformer.wpe", c.n_positions, width))),
        Stage("transformer.h.*", c.n_layer, block),
        root((*layer_norm("transformer.ln_f", width), *head)),
    )


FAMILY = Family(
    configs={"gpt2": GPT2Config},
    heads=("causal-lm", "sequence-classification", "token-classification"),
    stages=stages,
)

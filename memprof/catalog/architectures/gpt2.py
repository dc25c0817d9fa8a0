"""GPT-2: ``Conv1D`` projections, learned positions, a tied head. Cerebras-GPT is the same model.

Source: transformers 5.23: models/gpt2/{configuration,modeling}_gpt2.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from memprof.catalog.architectures.family import (
    CAUSAL_HEADS,
    Count,
    Depth,
    Family,
    LanguageConfig,
    Rate,
    per_head,
    ties,
)
from memprof.catalog.architectures.parts import (
    Buffers,
    Parameters,
    Stages,
    conv1d,
    decoder_head,
    embedding,
    layer_norm,
    linear,
    root,
)
from memprof.model.architecture import Stage


class GPT2Config(LanguageConfig, kw_only=True):
    heads: ClassVar[tuple[str, ...]] = CAUSAL_HEADS
    spellings: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

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

    def __post_init__(self) -> None:
        per_head(self.n_embd, self.n_head, "n_embd")


def gpt_head(config: LanguageConfig, task: str, width: int, vocab_size: int) -> Parameters:
    """The head of the GPT models: token classification has a ``classifier`` of its own."""
    if task == "token-classification":
        return linear("classifier", width, config.num_labels, bias=True)
    return decoder_head(task, width, vocab_size, config.num_labels, ties(config, task))


def gpt_stages(
    vocab_size: int, positions: int, block: Stage, width: int, head: Parameters, buffers: Buffers = ()
) -> Stages:
    """Token and position embeddings, the layers, the last norm and the head."""
    return (
        root((*embedding("transformer.wte", vocab_size, width), *embedding("transformer.wpe", positions, width))),
        block,
        root((*layer_norm("transformer.ln_f", width), *head), buffers),
    )


def stages(c: GPT2Config, task: str) -> Stages:
    width, inner = c.n_embd, c.n_inner or 4 * c.n_embd
    block = (
        *layer_norm("ln_1", width),
        *conv1d("attn.c_attn", width, 3 * width),
        *conv1d("attn.c_proj", width, width),
        *layer_norm("ln_2", width),
        *conv1d("mlp.c_fc", width, inner),
        *conv1d("mlp.c_proj", inner, width),
    )
    head = gpt_head(c, task, width, c.vocab_size)
    return gpt_stages(c.vocab_size, c.n_positions, Stage("transformer.h.*", c.n_layer, block), width, head)


FAMILY = Family(
    configs={"gpt2": GPT2Config},
    stages=stages,
)

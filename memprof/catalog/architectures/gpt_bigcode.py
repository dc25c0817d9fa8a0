"""GPT-BigCode (SantaCoder, StarCoder): GPT-2 with plain linears and one key-value head for all queries.

Source: transformers 5.23: models/gpt_bigcode/{configuration,modeling}_gpt_bigcode.py.
"""

from __future__ import annotations

from memprof.catalog.architectures.family import Count, Family
from memprof.catalog.architectures.gpt2 import GPT2Config, gpt_head, gpt_stages
from memprof.catalog.architectures.parts import Stages, layer_norm, linear
from memprof.model.architecture import Buffer, Stage


class GPTBigCodeConfig(GPT2Config, kw_only=True):
    model_type: str = "gpt_bigcode"
    activation_function: str = "gelu_pytorch_tanh"
    attention_softmax_in_fp32: bool = True
    scale_attention_softmax_in_fp32: bool = True
    multi_query: bool = True
    num_key_value_heads: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.num_key_value_heads = 1 if self.multi_query else self.n_head


def stages(c: GPTBigCodeConfig, task: str) -> Stages:
    width, inner = c.n_embd, c.n_inner or 4 * c.n_embd
    key_width = width // c.n_head if c.multi_query else width
    block = (
        *layer_norm("ln_1", width),
        *linear("attn.c_attn", width, width + 2 * key_width, bias=True),
        *linear("attn.c_proj", width, width, bias=True),
        *layer_norm("ln_2", width),
        *linear("mlp.c_fc", width, inner, bias=True),
        *linear("mlp.c_proj", inner, width, bias=True),
    )
    mask = Buffer("transformer.bias", (c.n_positions, c.n_positions), "bool")
    head = gpt_head(c, task, width, c.vocab_size)
    return gpt_stages(c.vocab_size, c.n_positions, Stage("transformer.h.*", c.n_layer, block), width, head, (mask,))


FAMILY = Family(
    configs={"gpt_bigcode": GPTBigCodeConfig},
    stages=stages,
)

"""What autograd saves on CUDA, summed by hand from PyTorch's derivative formulas.

No CPU run can show these: other attention kernels, dropout masks, float32 statistics, autocast's own lists. Each saved
tensor is written out below with the formula that saves it (tools/autograd/derivatives.yaml), from nothing but the
model's dimensions.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from memprof.analytic.engine import play
from memprof.catalog.architectures import lay_out
from memprof.catalog.device_catalog import device
from memprof.model.architecture import Architecture
from memprof.model.scenario import Scenario
from memprof.semantics.device import semantics_for

B, S, E, HEADS, D, INNER, V = 2, 24, 64, 4, 16, 80, 100
KV = 2
TOKENS = B * S
LLAMA = {
    "model_type": "llama", "vocab_size": V, "hidden_size": E, "intermediate_size": INNER, "num_hidden_layers": 1,
    "num_attention_heads": HEADS, "num_key_value_heads": KV, "max_position_embeddings": 64,
}  # fmt: skip
MHA = LLAMA | {"num_key_value_heads": HEADS}
GPT2 = {"model_type": "gpt2", "vocab_size": V, "n_embd": E, "n_head": HEADS, "n_layer": 1, "n_positions": 64}
STATE = [16, 8]
"""Flash attention's random-number state: int64 tensors of shapes (2,) and ()."""
SEED_AND_OFFSET = [8, 8]
"""CuDNN's: two int64 scalars."""


def saved(config: dict[str, Any], on: str, **fields: Any) -> Counter[int]:
    """The bytes of each storage that autograd saves over one forward pass."""
    layout = lay_out(config)
    architecture = Architecture(
        name="small",
        hf_id=None,
        model_type=layout.config["model_type"],
        task=layout.task,
        config=layout.config,
        stages=layout.stages,
        tied=layout.tied,
    )
    batch = {"micro_batch_size": B, "sequence_length": S}
    scenario = msgspec.convert({"model": "small", "device": on, "batch": batch} | fields, Scenario)
    played = play(architecture, scenario, semantics_for(device(on), scenario.software))
    counts: Counter[int] = Counter()
    for kept in played.saved:
        counts[kept.num_bytes] += kept.count
    return counts


def rms_norm(item: int) -> list[int]:
    """``pow(2)`` saves the float32 input, ``rsqrt`` its result, ``weight * x`` the normed rows; a reader the output.

    In float32 there is no cast: the input is the residual stream's own storage.
    """
    return [TOKENS * E * 4, TOKENS * 4, TOKENS * E * item, TOKENS * E * item]


def llama(item: int, attention: list[int]) -> Counter[int]:
    """One Llama layer, its embedding, last norm, head and loss, without autocast."""
    ids, rotary = [TOKENS * 8], [S * D * item] * 2  # embedding: indices; q * cos + rotated q * sin: the factors
    gate, up, silu, product = [TOKENS * INNER * item] * 4  # silu: its input; mul: both; down_proj: its input
    log_softmax, target, total_weight = TOKENS * V * 4, TOKENS * 8, 4  # float32; nll_loss
    sizes = [
        *ids, *rms_norm(item), *rotary, *attention, *rms_norm(item), gate, up, silu, product, *rms_norm(item),
        log_softmax, target, total_weight,
    ]  # fmt: skip
    return Counter(sizes)


def q_k_v_out(item: int, kv_heads: int) -> list[int]:
    return [B * heads * S * D * item for heads in (HEADS, kv_heads, kv_heads, HEADS)]


@pytest.mark.parametrize(("on", "precision"), [("a100-80gb", "bf16"), ("l4-24gb", "fp16"), ("rtx-4090-24gb", "bf16")])
def test_flash_saves_its_inputs_output_logsumexp_and_state(on: str, precision: str) -> None:
    """``_scaled_dot_product_flash_attention``: query, key, value, output, logsumexp (batch, heads, q), two of state."""
    attention = [*q_k_v_out(2, KV), B * HEADS * S * 4, *STATE]
    assert saved(LLAMA, on, precision=precision) == llama(2, attention)


def test_cudnn_saves_its_inputs_output_logsumexp_seed_and_offset() -> None:
    """``_scaled_dot_product_cudnn_attention``, the first choice on an H100 with torch 2.13's cuDNN."""
    attention = [*q_k_v_out(2, KV), B * HEADS * S * 4, *SEED_AND_OFFSET]
    assert saved(LLAMA, "h100-80gb", precision="bf16") == llama(2, attention)
    assert saved(LLAMA, "a100-80gb", precision="bf16", attention="sdpa-cudnn") == llama(2, attention)


def test_efficient_rounds_the_logsumexp_up_and_keeps_its_state_in_host_memory() -> None:
    """``_scaled_dot_product_efficient_attention`` on a T4: logsumexp of 32 rows for 24 queries."""
    attention = [*q_k_v_out(2, HEADS), B * HEADS * 32 * 4]
    assert saved(MHA, "t4-16gb", precision="fp16") == llama(2, attention)


def test_grouped_queries_without_a_fused_kernel_save_the_repeated_keys_and_values() -> None:
    """A T4 has no flash, and efficient attention no groups: the math path saves copies, in float32 from float16.

    bmm: scaled query and key, weights and value; softmax: its result, which is the weights.
    """
    copies = [B * HEADS * S * D * 4] * 3
    out = [B * HEADS * S * D * 2]  # o_proj's input, a copy of the permuted output
    attention = [*copies, B * HEADS * S * S * 4, *out]
    assert saved(LLAMA, "t4-16gb", precision="fp16") == llama(2, attention)


def test_efficient_takes_float32() -> None:
    """And in float32 a norm's input is the residual stream itself, saved once by ``pow`` and the product."""
    attention = [*q_k_v_out(4, HEADS), B * HEADS * 32 * 4]
    assert saved(MHA, "h100-80gb", precision="fp32") == llama(4, attention)


def test_eager_attention_saves_scores_twice() -> None:
    """bmm saves q, repeated k and v and the bf16 weights; softmax its float32 result; o_proj the permuted copy."""
    contiguous = [B * HEADS * S * D * 2] * 3
    weights = [B * HEADS * S * S * 4, B * HEADS * S * S * 2]
    attention = [*contiguous, *weights, B * HEADS * S * D * 2]
    assert saved(LLAMA, "h100-80gb", precision="bf16", attention="eager") == llama(2, attention)


def gpt2(attention: list[int], *, dropout: bool, tied_copy: bool = True) -> Counter[int]:
    """One GPT-2 layer under bf16 autocast over float32 weights, with its embeddings, last norm, head and loss."""
    wide, narrow, row = TOKENS * E * 4, TOKENS * E * 2, TOKENS * 4
    mask = [TOKENS * E] if dropout else []  # native_dropout saves a bool mask, not noise of the input's dtype
    embeddings = [TOKENS * 8, S * 8, *mask]  # indices of tokens and of positions
    layer_norm = [wide, row, row]  # native_layer_norm: input, mean and rstd, all float32
    attn = [narrow, E * 3 * E * 2, *attention, E * E * 2, *mask]  # x and the weight's copy, cast for each product
    # gelu_new: pow is on autocast's float32 list, so x is cast, and what follows stays float32. tanh saves its result,
    # the last product its factors: 0.5 * x (bfloat16) and 1 + tanh.
    inner = TOKENS * 4 * E
    gelu = [inner * 4, inner * 4, inner * 2, inner * 4]
    mlp = [narrow, E * 4 * E * 2, *gelu, inner * 2, 4 * E * E * 2, *mask]
    head = [narrow, *([V * E * 2] if tied_copy else [])]
    loss = [TOKENS * V * 4, TOKENS * 8, 4]
    return Counter([*embeddings, *layer_norm, *attn, *layer_norm, *mlp, *layer_norm, *head, *loss])


@pytest.mark.parametrize(("rate", "dropout"), [(0.0, False), (0.1, True)])
def test_autocast_keeps_one_copy_of_each_weight_and_dropout_a_bool_mask(rate: float, dropout: bool) -> None:
    """Query, key and value are parts of one projection, so flash saves them as one storage."""
    attention = [TOKENS * 3 * E * 2, TOKENS * E * 2, B * HEADS * S * 4, *STATE]
    measured = saved(GPT2, "a100-80gb", precision="bf16-mixed", loop={"dropout": rate})
    assert measured == gpt2(attention, dropout=dropout)


def test_autocast_casts_an_input_anew_for_each_product() -> None:
    """A Llama's q, k and v projections read one float32 norm: three copies are saved; each weight's copy once."""
    item, wide, narrow = 4, TOKENS * E * 4, TOKENS * E * 2
    norm = [
        wide,
        TOKENS * 4,
        wide,
    ]  # the residual stream, rsqrt, the normalised rows; the output is cast before it is read
    gate, up = TOKENS * INNER * 2, TOKENS * INNER * 2
    weights = [E * E * 2, E * E // 2 * 2, E * E // 2 * 2, E * E * 2, *[E * INNER * 2] * 3, E * V * 2]
    expected = [
        TOKENS * 8, S * D * item, S * D * item, *norm * 3, *[narrow] * 3, *[narrow] * 2, narrow, *weights,
        *q_k_v_out(2, KV), B * HEADS * S * 4, *STATE, gate, up, gate, gate, TOKENS * V * 4, TOKENS * 8, 4,
    ]  # fmt: skip
    assert saved(LLAMA, "a100-80gb", precision="bf16-mixed") == Counter(expected)


def test_softmax_under_autocast_is_float32() -> None:
    """GPT-2's eager attention: autocast asks ``softmax`` for float32; its result is cast back for the product."""
    scores = B * HEADS * S * S
    operands = [TOKENS * E * 2] * 3  # query, key and value, each copied out of the joined projection
    attention = [*operands, scores * 4, scores * 2, TOKENS * E * 2]
    measured = saved(GPT2, "a100-80gb", precision="bf16-mixed", attention="eager", loop={"dropout": 0.0})
    assert measured == gpt2(attention, dropout=False)


def test_checkpointing_saves_the_layer_s_input_alone() -> None:
    """In bf16: token ids, the residual stream before the layer, then the last norm, the head and the loss."""
    expected = [TOKENS * 8, TOKENS * E * 2, *rms_norm(2), TOKENS * V * 4, TOKENS * 8, 4]
    assert saved(LLAMA, "h100-80gb", precision="bf16", checkpointing="full") == Counter(expected)

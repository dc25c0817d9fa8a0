"""What transformers decides before attention, against the installed transformers."""

from __future__ import annotations

import itertools
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import MistralConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask, create_sliding_window_causal_mask

from memprof.semantics.attention_transformers import eager_mask, sdpa_arguments
from memprof.semantics.device import Semantics

SEM = Semantics(kind="cuda", architecture="sm_90")
SHAPE = {"batch": 2, "q_heads": 4, "kv_heads": 2, "q_len": 6, "kv_len": 6, "head_dim": 8, "value_head_dim": 8}


class Layer(torch.nn.Module):
    num_key_value_groups = 2

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.is_causal = causal


def really(causal: bool, padded: bool, window: int | None, implementation: str = "sdpa") -> torch.Tensor | None:
    config = MistralConfig(hidden_size=32, num_attention_heads=4, sliding_window=window)
    config._attn_implementation = implementation
    attention_mask = torch.ones(2, 6, dtype=torch.long)
    if padded:
        attention_mask[0, -1] = 0
    make = create_bidirectional_mask if not causal else create_causal_mask
    if window is not None:
        make = create_sliding_window_causal_mask
    rest: dict[str, Any] = {"past_key_values": None}
    if causal:
        rest["position_ids"] = None
    return make(config=config, inputs_embeds=torch.zeros(2, 6, 32), attention_mask=attention_mask, **rest)


CASES = [
    (causal, padded, window)
    for causal, padded, window in itertools.product((True, False), (True, False), (None, 4, 6, 8))
    if causal or window is None
]


@pytest.mark.parametrize(("causal", "padded", "window"), CASES)
def test_the_mask_is_made_exactly_where_transformers_makes_it(causal: bool, padded: bool, window: int | None) -> None:
    mask = really(causal, padded, window)
    predicted = sdpa_arguments(SEM, **SHAPE, causal=causal, padded=padded, window=window).mask
    assert (predicted is None) is (mask is None)
    if mask is not None and predicted is not None:
        assert (tuple(mask.shape), str(mask.dtype)) == (predicted.shape, f"torch.{predicted.dtype}")


@pytest.mark.parametrize("q_len", [1, 6])
@pytest.mark.parametrize(("causal", "padded", "window"), CASES)
def test_the_call_is_made_with_the_predicted_arguments(
    causal: bool, padded: bool, window: int | None, q_len: int
) -> None:
    predicted = sdpa_arguments(SEM, **{**SHAPE, "q_len": q_len}, causal=causal, padded=padded, window=window)
    mask = None if predicted.mask is None else torch.ones(predicted.mask.shape, dtype=torch.bool)
    query, key = torch.zeros(2, 4, q_len, 8), torch.zeros(2, 2, 6, 8)
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", return_value=query) as called:
        sdpa_attention_forward(Layer(causal), query, key, key, mask)
    (query_in, key_in, _), arguments = called.call_args
    assert arguments["is_causal"] is predicted.is_causal
    assert arguments.get("enable_gqa", False) is predicted.enable_gqa
    assert (key_in.shape[1] == 4) is predicted.repeats_kv
    assert (query_in.shape == (2, 2, 2, 8)) is predicted.packs_query


def test_heads_wider_than_256_are_repeated() -> None:
    wide = {**SHAPE, "head_dim": 512, "value_head_dim": 512}
    assert sdpa_arguments(SEM, **wide, causal=True).repeats_kv
    before = Semantics(kind="cuda", architecture="sm_90", transformers=(5, 0))
    assert sdpa_arguments(before, **wide, causal=True).enable_gqa
    assert sdpa_arguments(
        Semantics(kind="cuda", architecture="sm_90", transformers=(4, 51)), **SHAPE, causal=True
    ).repeats_kv


@pytest.mark.parametrize(("causal", "padded"), list(itertools.product([True, False], [True, False])))
def test_eager_attention_has_an_additive_mask(causal: bool, padded: bool) -> None:
    mask = really(causal, padded, None, "eager")
    predicted = eager_mask(batch=2, q_len=6, kv_len=6, dtype="float32", causal=causal, padded=padded)
    assert (predicted is None) is (mask is None)
    if mask is not None and predicted is not None:
        assert (tuple(mask.shape), str(mask.dtype)) == (predicted.shape, f"torch.{predicted.dtype}")

"""The installed transformers as an older release: overridden where the release asked for is older, else untouched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers.cache_utils import DynamicLayer
from transformers.integrations import sdpa_attention
from transformers.models.gemma2.modeling_gemma2 import Gemma2PreTrainedModel

from memprof.semantics.device import Semantics
from memprof.trace.library_versions import as_of, transformers_of

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of what it deprecates
BATCH, LENGTH, WIDTH, HEADS = 2, 8, 16, 2


def release(*version: int) -> Semantics:
    return Semantics(kind="cuda", architecture="sm_86", transformers=(version[0], version[1]))


def states() -> torch.Tensor:
    return torch.ones(BATCH, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)


@pytest.mark.parametrize(("version", "is_kept"), [((4, 55), True), ((4, 56), False)])
def test_a_cache_keeps_its_first_keys_or_copies_them(version: tuple[int, int], is_kept: bool) -> None:
    key = states()
    with transformers_of(release(*version)):
        kept, _ = DynamicLayer().update(key, states())
    assert (kept is key) == is_kept


def test_later_keys_are_joined_in_any_release() -> None:
    layer = DynamicLayer()
    with transformers_of(release(4, 51)):
        layer.update(states(), states())
        joined, _ = layer.update(states(), states())
    assert joined.shape[2] == 2 * LENGTH


def test_nothing_is_replaced_for_the_installed_release_nor_afterwards() -> None:
    def found() -> list[Any]:
        functions = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS
        supports = Gemma2PreTrainedModel._supports_sdpa
        return [DynamicLayer.update, sdpa_attention.use_gqa_in_sdpa, functions["sdpa"], supports]

    before = found()
    with transformers_of(Semantics(kind="cuda", architecture="sm_86")):
        assert found() == before
    with transformers_of(release(4, 51)):
        assert all(mine != theirs for mine, theirs in zip(found(), before, strict=True))
    assert found() == before


def gpt2() -> Any:
    config = transformers.GPT2Config(n_embd=WIDTH, n_head=HEADS, n_layer=2, n_positions=LENGTH, vocab_size=32)
    config.use_cache = False
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize(
    ("version", "num_buffers", "holds"), [((4, 51), 2, True), ((5, 1), 2, False), ((5, 2), 0, False)]
)
def test_gpt2_has_its_masks_and_its_cache(version: tuple[int, int], num_buffers: int, holds: bool) -> None:
    model = gpt2()
    as_of(release(*version), model)
    assert [tuple(buffer.shape) for buffer in model.buffers()] == [(1, 1, LENGTH, LENGTH)] * num_buffers
    assert (model(torch.ones(1, 4, dtype=torch.int64)).past_key_values is not None) == holds


def test_t5_gives_the_same_numbers_and_its_decoder_a_cache() -> None:
    config = transformers.T5Config(
        d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=HEADS, vocab_size=32, dropout_rate=0.0,
        decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    ids = torch.randint(0, 32, (BATCH, LENGTH))
    outputs = []
    for sem in (release(4, 51), Semantics(kind="cuda", architecture="sm_86")):
        torch.manual_seed(1)
        with transformers_of(sem):
            model = transformers.T5ForConditionalGeneration(config)
            model.config.use_cache = model.decoder.config.use_cache = False
            as_of(sem, model)
            outputs.append(model(input_ids=ids, labels=ids))
    assert torch.allclose(outputs[0].loss, outputs[1].loss, atol=1e-5)
    assert [each.past_key_values is not None for each in outputs] == [True, False]


def test_opt_hands_over_uncopied_views_before_it_used_the_shared_attention() -> None:
    seen = []

    def attend(*inputs: Any, **_: Any) -> Any:
        seen.append([tensor.is_contiguous() for tensor in inputs[1:4]])
        return torch.zeros(BATCH, LENGTH, HEADS, WIDTH // HEADS), None

    functions = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS
    config = transformers.OPTConfig(
        hidden_size=WIDTH, ffn_dim=32, num_attention_heads=HEADS, num_hidden_layers=1, vocab_size=32,
        word_embed_proj_dim=WIDTH, max_position_embeddings=LENGTH,
    )  # fmt: skip
    model = transformers.OPTForCausalLM(config)
    original = functions["sdpa"]
    transformers.AttentionInterface.register("sdpa", attend)
    try:
        for version in ((4, 51), (4, 52), (4, 56)):
            with transformers_of(release(*version)):
                model(torch.ones(BATCH, LENGTH, dtype=torch.int64), use_cache=False)
    finally:
        transformers.AttentionInterface.register("sdpa", original)
    assert seen == [[False] * 3, [True] * 3, [False] * 3]


@pytest.mark.parametrize(("version", "attention"), [((4, 51), "sdpa"), ((5, 22), "eager")])
def test_gemma_2_attended_without_its_soft_caps_before_it_was_eager(version: tuple[int, int], attention: str) -> None:
    config = transformers.Gemma2Config(
        hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=HEADS, num_key_value_heads=1,
        head_dim=8, vocab_size=32, attn_logit_softcapping=50.0, pad_token_id=0,
    )  # fmt: skip
    with transformers_of(release(*version)):
        model = transformers.AutoModelForCausalLM.from_config(config)
        assert model.config._attn_implementation == attention
        assert model(input_ids=torch.ones(1, LENGTH, dtype=torch.int64)).logits.shape == (1, LENGTH, 32)

"""The chunked loss: the number that it is, where it is cut, and the models that can have it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from memprof import api
from memprof.errors import UnsupportedError
from memprof.model.decode import decode
from memprof.model.scenario import Batch, Scenario
from memprof.semantics.chunked_loss import IGNORED, NUM_CHUNKS, chunk_sizes
from memprof.workload.chunked_loss import chunk_loss, chunked_loss
from memprof.workload.factory import from_factory
from memprof.workload.huggingface import from_config

WIDTH, VOCABULARY = 6, 11
SMALL = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
         "num_key_value_heads": 1, "pad_token_id": 0}  # fmt: skip


@pytest.mark.parametrize(("batch", "length"), [(1, 3), (2, 5), (3, 8), (4, 31)])
def test_it_is_the_mean_cross_entropy_of_the_positions_with_a_label(batch: int, length: int) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
    hidden = torch.randn(batch, length, WIDTH, requires_grad=True)
    labels = torch.randint(VOCABULARY, (batch, length))
    labels[:, -1] = labels[0, 0] = IGNORED
    whole = torch.nn.functional.cross_entropy(head(hidden).mT, labels, ignore_index=IGNORED)
    loss = chunked_loss(hidden, labels, head)
    torch.testing.assert_close(loss, whole)
    inputs = (hidden, head.weight)
    torch.testing.assert_close(torch.autograd.grad(loss, inputs), torch.autograd.grad(whole, inputs))


@pytest.mark.parametrize("count", range(2 * NUM_CHUNKS + 2))
def test_it_is_cut_where_torch_cuts(count: int) -> None:
    assert chunk_sizes(count) == [len(chunk) for chunk in torch.zeros(count, 2).tensor_split(NUM_CHUNKS)]


def test_a_model_s_own_loss_and_logits_are_replaced() -> None:
    scenario = Scenario(model="small", task="causal-lm", loss="chunked", precision="fp32", device="cpu",
                        batch=Batch(micro_batch_size=2, sequence_length=7))  # fmt: skip
    workload = from_config({"model_type": "llama", **SMALL}, scenario)
    batch = workload.batch()
    outputs = workload.forward(batch)
    shifted = torch.nn.functional.pad(batch["labels"], (1, 0), value=0)[:, :-1]
    own = transformers.LlamaForCausalLM.forward(workload.model, batch["input_ids"], labels=shifted)
    assert outputs.logits is None
    torch.testing.assert_close(workload.loss(outputs, batch), own.loss)


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("Gemma2ForCausalLM", {"head_dim": 8}, "sets final_logit_softcapping"),
        ("CohereForCausalLM", {}, "sets logit_scale"),
        ("MixtralForCausalLM", {"output_router_logits": True}, "sets output_router_logits"),
        ("BertForMaskedLM", {}, "has no such head"),
        ("LlamaForSequenceClassification", {}, "has no such head"),
    ],
)
def test_a_model_of_which_more_is_made_than_logits_is_refused(kind: str, changes: dict[str, Any], why: str) -> None:
    chosen = getattr(transformers, kind)
    with torch.device("meta"):
        model = chosen(chosen.config_class(**SMALL | changes))
    with pytest.raises(UnsupportedError, match=f"{kind} {why}"):
        chunk_loss(model)


def test_a_factory_has_a_loss_of_its_own() -> None:
    with pytest.raises(UnsupportedError, match="brings its own loss"):
        from_factory("tests.support.trace_factories:none", Scenario(model="none", loss="chunked"))


def test_inference_has_no_loss() -> None:
    asked = {"model": "gpt2", "mode": "inference", "batch": {"sequence_length": 64}}
    chunked = api.estimate(decode(asked | {"loss": "chunked"}))
    assert chunked.peak == api.estimate(decode(asked)).peak
    assert "loss has no effect in inference" in chunked.warnings

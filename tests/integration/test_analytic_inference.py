"""Prefill, decoding and ``generate`` predicted by the analytic engine, against the same calls on the CPU."""

from __future__ import annotations

from itertools import accumulate, product
from typing import Any

import msgspec
import pytest
import torch

from memprof.allocator import folded
from memprof.analytic.inference import RELEASE
from memprof.model.timeline import Action, Component, Timeline, unroll_segment
from memprof.semantics.device import Semantics
from tests.support.adapted import Case, played, predicted_peaks, real_model, unrolled_peak
from tests.support.referee import CPU, autocast, memory_events

PLAIN = [
    Case(family, precision, None, 0, batch=batch, length=48, mode="inference", attention=attention)
    for family, precision, (attention, batch) in product(
        ("llama", "gpt2"), ("fp32", "bf16", "bf16-mixed"), (("sdpa", 1), ("sdpa", 3), ("eager", 3))
    )
]
FOUR_BIT = [
    Case(family, precision, quantization, 0, batch=2, length=48, mode="inference")
    for family, quantization, precision in product(("llama", "gpt2"), ("nf4", "nf4-double"), ("fp32", "bf16"))
]


def named(case: Case) -> str:
    return f"{case.family}-{case.precision}-{case.attention}-{case.quantization}-{case.batch}"


@pytest.mark.parametrize("case", PLAIN + FOUR_BIT, ids=named)
def test_a_prefill_and_a_decoding_step_need_what_the_model_does(case: Case) -> None:
    model, timeline = real_model(case), played(case).timeline
    cache, measured = prefill_and_decode(case, model)
    predicted = predicted_peaks(timeline)
    assert (predicted["prefill"], predicted["decode"]) == pytest.approx(measured, rel=0.001)
    assert kv_cache_bytes(timeline) == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert unrolled_peak(timeline) == folded.peaks(timeline).num_bytes


@pytest.mark.parametrize(
    "case", [c for c in PLAIN + FOUR_BIT if c.attention == "sdpa" and c.batch != 1][::2], ids=named
)
@pytest.mark.parametrize(("length", "new_tokens"), [(48, 1), (48, 2), (2, 60)])
def test_generate_needs_what_the_library_does(case: Case, length: int, new_tokens: int) -> None:
    """The processor of ``min_new_tokens``, which keeps the test from ending early, is not part of the prediction."""
    case = case._replace(length=length, new_tokens=new_tokens)
    model, timeline = real_model(case), played(case).timeline
    ids = torch.randint(5, case.config["vocab_size"], (case.batch, case.length))

    def generate() -> Any:
        with torch.no_grad(), autocast(case):  # type: ignore[arg-type]
            return model.generate(
                input_ids=ids, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0
            )

    generate()
    measured = max(accumulate(memory_events(generate)))
    processor = case.batch * case.config["vocab_size"] * 2 * 4 + case.config["vocab_size"] * 8
    predicted = predicted_peaks(timeline)
    highest = max(predicted["prefill"], predicted.get("decode", 0))
    assert 0 <= measured - highest <= max(processor, measured * 0.005)
    assert kv_cache_bytes(timeline) == (length + new_tokens - 1) * kv_cache_bytes(timeline_of(case, 1)) // length
    assert unrolled_peak(timeline) == folded.peaks(timeline).num_bytes


def test_prefill_and_decoding_share_one_workspace() -> None:
    case = Case("llama", "bf16", None, 0, mode="inference", new_tokens=4)
    timeline = played(case, Semantics(kind="cuda", architecture="sm_90", cuda=(13, 0))).timeline
    assert timeline.blocks.component.count(Component.WORKSPACE) == 1


def timeline_of(case: Case, new_tokens: int) -> Timeline:
    return played(case._replace(new_tokens=new_tokens)).timeline


def prefill_and_decode(case: Case, model: Any) -> tuple[Any, tuple[int, int]]:
    """The cache after both calls, and the highest bytes of each above the weights and the prompt."""
    ids = torch.randint(0, case.config["vocab_size"], (case.batch, case.length))
    token = ids[:, :1].clone()
    outputs: list[Any] = []

    def call(tokens: torch.Tensor) -> None:
        cache = outputs.pop() if outputs else None
        with torch.no_grad(), autocast(case):  # type: ignore[arg-type]
            outputs.append(model(input_ids=tokens, past_key_values=cache, use_cache=True).past_key_values)

    call(ids[:, :2])
    outputs.clear()
    prefill = max(accumulate(memory_events(lambda: call(ids))))
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in outputs[0].layers)
    decode = held + max(accumulate(memory_events(lambda: call(token))))
    return outputs[0], (prefill, decode)


def kv_cache_bytes(timeline: Timeline) -> int:
    """Of the caches that the first prompt leaves, before they are released."""
    alive: dict[int, int] = {}
    for index in timeline.schedule[-2][1]:
        if timeline.segments[index].name == RELEASE:
            break
        for event in unroll_segment(timeline, index):
            if event.action == Action.ALLOC:
                alive[event.block] = event.num_bytes
            else:
                del alive[event.block]
    width = len(timeline.blocks.num_bytes)
    return sum(n for block, n in alive.items() if timeline.blocks.component[block % width] is Component.KV_CACHE)


def test_what_older_releases_of_transformers_kept_in_generate() -> None:
    """The whole prompt's logits, in float32 too, to 4.44, alive in the next call to 4.41; to 4.35 a second cache."""
    case = Case("llama", "bf16", None, 0, batch=3, length=48, new_tokens=2, mode="inference")

    def peaks(*release: int) -> dict[str, int]:
        return predicted_peaks(played(case, msgspec.structs.replace(CPU, transformers=release)).timeline)

    logits = case.batch * case.length * case.config["vocab_size"]
    cache = kv_cache_bytes(timeline_of(case, case.new_tokens)) * case.length // (case.length + 1)
    assert peaks(4, 41)["prefill"] == peaks(4, 44)["prefill"] > (2 + 4) * logits + cache > peaks(4, 45)["prefill"]
    assert peaks(4, 41)["decode"] - peaks(4, 42)["decode"] == 4 * (logits - logits // case.length)
    assert peaks(4, 42)["decode"] == peaks(4, 45)["decode"]
    assert peaks(4, 35)["decode"] - peaks(4, 36)["decode"] == cache

"""The two engines, which share no code that decides when a tensor is made or given back, against each other on CUDA.

The trace runs the library's own model under PyTorch's own autograd; the analytic engine plays a program of it. Blocks
of a MiB and more come and go in the same order, so the caching allocator reserves the same for both. The trace has some
bytes more: scalars of the loss.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from memprof import engines
from memprof.allocator import play
from memprof.catalog.device_catalog import device
from memprof.model.scenario import Adapter, Batch, Loop, Optimizer, Scenario, Software
from memprof.model.timeline import Action, Timeline
from memprof.semantics.device import semantics_for
from memprof.units import MiB

H100 = "h100-80gb"
BATCH = Batch(micro_batch_size=4, sequence_length=512)
ALONE = Batch(micro_batch_size=1, sequence_length=1024)  # its positions are looked at for packed sequences
ODD = Batch(micro_batch_size=3, sequence_length=335)  # of whose 1002 labels not all chunks have as many
TORCH_2_10 = Software(torch="2.10")  # cuBLASLt has a workspace of its own; before 2.9 each call has
TORCH_2_6 = Software(torch="2.6")
PLAIN = [
    Scenario(model="gpt2", precision="bf16-mixed", batch=BATCH, device=H100, software=TORCH_2_10),
    Scenario(model="tinyllama-1.1b", precision="fp32", batch=BATCH, device=H100, software=TORCH_2_6),
    Scenario(model="gpt2", precision="fp32", attention="eager", batch=BATCH, device=H100),
    Scenario(model="tinyllama-1.1b", precision="bf16", attention="eager", batch=BATCH, device=H100),
    Scenario(model="qwen3-0.6b", precision="bf16-mixed", optimizer=Optimizer(name="sgd"), batch=BATCH, device=H100),
    Scenario(model="qwen2.5-0.5b", precision="bf16", loop=Loop(clip_grad_norm=1.0), batch=BATCH, device=H100),
    Scenario(model="gpt2", precision="bf16-mixed", loss="chunked", batch=BATCH, device=H100, software=TORCH_2_10),
    Scenario(model="qwen3-0.6b", precision="bf16", loss="chunked", batch=ODD, device=H100),
]
FLASH_ATTN = [
    Scenario(model="gpt2", precision="bf16", attention="flash-attn", batch=ALONE, device=H100),
    Scenario(model="qwen3-0.6b", precision="bf16-mixed", attention="flash-attn", batch=BATCH, device=H100),
]
QUANTIZED = [
    Scenario(model="qwen2.5-0.5b", precision="bf16", quantization="nf4", batch=BATCH, device=H100,
             adapter=Adapter(rank=8, target_modules=("all-linear",))),
]  # fmt: skip
CHECKPOINTED = [
    Scenario(model="qwen2.5-0.5b", precision="bf16-mixed", checkpointing="full", batch=BATCH, device=H100,
             software=TORCH_2_10),
    Scenario(model="tinyllama-1.1b", precision="bf16", checkpointing="full", batch=BATCH, device=H100),
    Scenario(model="tinyllama-1.1b", precision="bf16", checkpointing="full", loss="chunked", batch=ODD, device=H100),
]  # fmt: skip


def _name(scenario: Scenario) -> str:
    return f"{scenario.model}-{scenario.precision}-{scenario.loss}"


def _timelines(scenario: Scenario) -> tuple[Timeline, Timeline]:
    semantics = semantics_for(device(scenario.device), scenario.software)
    analytic, trace = (engines.answer(scenario, semantics, engine).timeline for engine in ("analytic", "trace"))
    return analytic, trace


def _large_blocks(timeline: Timeline) -> list[tuple[bool, int, int]]:
    """Events of blocks of at least a MiB: whether one is asked for, its bytes, its number among those of its size."""
    sizes = timeline.blocks.num_bytes
    asked: Counter[int] = Counter()
    numbers: dict[int, int] = {}
    events = []
    for event in timeline.unroll():
        num_bytes = sizes[event.block % len(sizes)]
        if num_bytes < MiB:
            continue
        is_asked = event.action == Action.ALLOC
        if is_asked:
            asked[num_bytes] += 1
            numbers[event.block] = asked[num_bytes]
        events.append((is_asked, num_bytes, numbers[event.block]))
    return events


def _reserve_alike(analytic: Timeline, trace: Timeline) -> None:
    ours, theirs = play(analytic), play(trace)
    assert 0 <= theirs.peak_requested_bytes - ours.peak_requested_bytes <= 8
    assert theirs.peak_reserved_bytes == ours.peak_reserved_bytes


@pytest.mark.parametrize("scenario", PLAIN + FLASH_ATTN + QUANTIZED, ids=_name)
def test_each_large_block_comes_and_goes_in_the_same_order(scenario: Scenario) -> None:
    analytic, trace = _timelines(scenario)
    assert _large_blocks(trace) == _large_blocks(analytic)
    _reserve_alike(analytic, trace)


@pytest.mark.parametrize("attention", ["flash-attn", "sdpa-flash"])
def test_heads_of_a_width_that_flash_kernels_pad(tmp_path: Path, attention: Any) -> None:
    config = {"model_type": "llama", "vocab_size": 500, "hidden_size": 240, "intermediate_size": 640}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    scenario = Scenario(model=str(path), precision="bf16", attention=attention, batch=BATCH, device=H100)
    _reserve_alike(*_timelines(scenario))


@pytest.mark.parametrize("scenario", CHECKPOINTED, ids=_name)
def test_checkpointed_steps_reserve_the_same(scenario: Scenario) -> None:
    _reserve_alike(*_timelines(scenario))

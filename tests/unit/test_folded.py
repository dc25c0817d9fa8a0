"""Folded timelines against the same steps unrolled, and against steps whose layers were never folded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, groupby
from typing import Any

import msgspec
import pytest

from memprof.allocator import folded, samples
from memprof.analytic.engine import Played, play
from memprof.catalog.architectures import lay_out
from memprof.catalog.device_catalog import device
from memprof.model.architecture import Architecture
from memprof.model.scenario import Scenario
from memprof.model.timeline import Action, Component, Event, Timeline, unroll_segment
from memprof.semantics.device import semantics_for

LLAMA = {
    "model_type": "llama", "vocab_size": 61, "hidden_size": 32, "intermediate_size": 44, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": 61, "n_embd": 24, "n_head": 3, "n_positions": 64}

SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {"precision": "fp32"},
    "eager": {"precision": "bf16", "attention": "eager"},
    "autocast": {"precision": "bf16-mixed"},
    "checkpointed": {"precision": "bf16", "checkpointing": "full"},
    "checkpointed-autocast": {"precision": "fp16-mixed", "checkpointing": "full"},
    "accumulated": {"precision": "bf16", "batch": {"gradient_accumulation_steps": 3}},
    "zero-grad-at-start": {"precision": "bf16", "loop": {"zero_grad": "start"}},
    "clipped": {"precision": "bf16", "loop": {"clip_grad_norm": 1.0}},
    "foreach": {"precision": "bf16", "optimizer": {"name": "adamw", "implementation": "foreach"}},
    "for-loop": {"precision": "fp32", "optimizer": {"name": "adamw", "implementation": "for-loop"}},
    "momentum": {"precision": "fp32", "optimizer": {"name": "sgd", "momentum": 0.9, "implementation": "foreach"}},
    "adafactor": {"precision": "fp32", "optimizer": {"name": "adafactor"}},
    "8-bit": {"precision": "bf16", "optimizer": {"name": "adamw-8bit"}},
    "float32-states": {"precision": "bf16", "optimizer": {"name": "adamw", "state_dtype": "float32"}},
    "lora": {"precision": "bf16", "adapter": {"rank": 4}},
    "lora-checkpointed": {"precision": "bf16-mixed", "adapter": {"rank": 4, "dropout": 0.1}, "checkpointing": "full"},
    "qlora": {"precision": "bf16", "adapter": {"rank": 4}, "quantization": "nf4"},
    "qlora-checkpointed": {
        "precision": "bf16-mixed",
        "adapter": {"rank": 4},
        "quantization": "nf4-double",
        "checkpointing": "full",
    },
    "int8-lora": {"precision": "fp16-mixed", "adapter": {"rank": 4}, "quantization": "int8"},
    "prefill": {"mode": "inference", "precision": "bf16"},
    "decode": {"mode": "inference", "precision": "bf16", "batch": {"new_tokens": 9}},
    "decode-quantized": {
        "mode": "inference",
        "precision": "fp16",
        "batch": {"new_tokens": 2},
        "quantization": "int8",
    },
    "ddp": {"precision": "bf16-mixed", "parallelism": {"strategy": "ddp", "data": 4}},
    "zero1": {"precision": "bf16-mixed", "parallelism": {"strategy": "zero1", "data": 4}},
    "zero2": {"precision": "bf16-mixed", "parallelism": {"strategy": "zero2", "data": 4}},
    "zero3": {"precision": "bf16-mixed", "parallelism": {"strategy": "zero3", "data": 4}},
    "fsdp": {"precision": "bf16-mixed", "parallelism": {"strategy": "fsdp", "data": 4}},
    "fsdp-checkpointed": {
        "precision": "bf16-mixed",
        "parallelism": {"strategy": "fsdp", "data": 4},
        "checkpointing": "full",
    },
    "fsdp-accumulated": {
        "precision": "bf16-mixed",
        "parallelism": {"strategy": "fsdp", "data": 4},
        "batch": {"gradient_accumulation_steps": 2},
    },
    "hsdp": {"precision": "bf16-mixed", "parallelism": {"strategy": "hsdp", "data": 4, "replicate": 2}},
}
CUDA_ONLY = ("float32-states",)
PADDED = ("zero1", "zero2", "zero3")
"""DeepSpeed pads partitions to whole alignments, so that layers do not all cost the same."""

EVERY = pytest.mark.parametrize("name", SCENARIOS)
DEEP = pytest.mark.parametrize("depth", [1, 2, 3, 7])
FAMILY = pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])

ON = [(on, name) for on in ("cpu", "h100-80gb") for name in SCENARIOS if on != "cpu" or name not in CUDA_ONLY]
EVERYWHERE = pytest.mark.parametrize(("on", "name"), ON)
TRAINING = pytest.mark.parametrize(("on", "name"), [(o, n) for o, n in ON if SCENARIOS[n].get("mode") != "inference"])


def architecture(config: dict[str, Any], depth: int, *, folds: bool = True) -> Architecture:
    layout = lay_out(config | {"n_layer" if config["model_type"] == "gpt2" else "num_hidden_layers": depth})
    stages = layout.stages
    if not folds:
        once = [msgspec.structs.replace(stage, count=1) for stage in stages]
        stages = tuple(one for one, stage in zip(once, stages, strict=True) for _ in range(stage.count))
    return Architecture(
        name="small",
        hf_id=None,
        model_type=layout.config["model_type"],
        task=layout.task,
        config=layout.config,
        stages=stages,
        tied=layout.tied,
    )


def step(config: dict[str, Any], name: str, depth: int, on: str, *, folds: bool = True) -> Played:
    values = SCENARIOS[name]
    batch = {"micro_batch_size": 2, "sequence_length": 17} | values.get("batch", {})
    scenario = msgspec.convert({"model": "small", "device": on} | values | {"batch": batch}, Scenario)
    return play(architecture(config, depth, folds=folds), scenario, semantics_for(device(on), scenario.software))


def unrolled(timeline: Timeline) -> Iterator[tuple[int, str, Event]]:
    """(place in the schedule, stage, event)."""
    for place, (stage, segments) in enumerate(timeline.schedule):
        for index in segments:
            for event in unroll_segment(timeline, index):
                yield place, stage, event


def signed(event: Event) -> int:
    if event.action == Action.ALLOC:
        return event.num_bytes
    return 0 if event.action == Action.FREE_REQUESTED else -event.num_bytes


@EVERYWHERE
@DEEP
@FAMILY
def test_folded_peaks_are_those_of_the_unrolled_events(config: dict[str, Any], on: str, depth: int, name: str) -> None:
    timeline = step(config, name, depth, on).timeline
    width, rows = len(timeline.blocks.num_bytes), timeline.blocks.component
    alive: dict[int, int] = {}
    components: Counter[str] = Counter()
    now = best = 0
    at_best: Counter[str] = Counter()
    stages: dict[str, int] = {}
    for _, stage, event in unrolled(timeline):
        if event.action == Action.ALLOC:
            assert event.block not in alive
            alive[event.block] = event.num_bytes
        elif event.action != Action.FREE_REQUESTED:
            assert alive.pop(event.block) == event.num_bytes
        now += signed(event)
        components[rows[event.block % width].value] += signed(event)
        stages[stage] = max(stages.get(stage, 0), now)
        if now > best:
            best, at_best = now, +components
    peaks = folded.peaks(timeline)
    assert peaks.num_bytes == best
    assert {stage: peaks.stages[stage] for stage in stages} == stages
    held = folded.alive(timeline, peaks.point)
    assert {component.value: size for component, size in held.components.items()} == at_best
    assert sum(held.modules.values()) == best


@EVERYWHERE
@FAMILY
def test_rounded_peaks_are_those_of_rounded_blocks(config: dict[str, Any], on: str, name: str) -> None:
    timeline = step(config, name, 4, on).timeline
    rounded = (event._replace(num_bytes=-(-event.num_bytes // 512) * 512) for _, _, event in unrolled(timeline))
    assert folded.peaks(timeline, 512).num_bytes == max(accumulate(map(signed, rounded)))


@EVERYWHERE
@FAMILY
def test_folding_layers_changes_no_event(config: dict[str, Any], on: str, name: str) -> None:
    together = step(config, name, 5, on)
    apart = step(config, name, 5, on, folds=False)
    assert apart.timeline.runs == []
    assert deltas(together.timeline) == deltas(apart.timeline)
    assert together.num_trainable == apart.num_trainable
    assert saved(together) == saved(apart)


def deltas(timeline: Timeline) -> list[int]:
    """Every event's change; what is freed in one go, in no telling order, is sorted."""
    changes = [signed(event) for event in timeline.unroll()]
    return [
        change for frees, group in groupby(changes, lambda c: c < 0) for change in (sorted(group) if frees else group)
    ]


def saved(played: Played) -> Counter[tuple[str, str, int]]:
    counts: Counter[tuple[str, str, int]] = Counter()
    for kept in played.saved:
        counts[kept.op, kept.module, kept.num_bytes] += kept.count
    return counts


@TRAINING
@FAMILY
def test_a_later_step_ends_as_it_began(config: dict[str, Any], on: str, name: str) -> None:
    timeline = step(config, name, 3, on).timeline
    alive: set[int] = set()
    ends = []
    for segments in [*(s for _, s in timeline.schedule), timeline.schedule[-1][1]]:
        for index in segments:
            for event in unroll_segment(timeline, index):
                if event.action == Action.ALLOC:
                    assert event.block not in alive
                    alive.add(event.block)
                elif event.action != Action.FREE_REQUESTED:
                    alive.remove(event.block)
        ends.append(set(alive))
    assert ends[-1] == ends[-2]


@EVERY
@FAMILY
def test_samples_keep_the_peak_however_few_they_are(config: dict[str, Any], name: str) -> None:
    timeline = step(config, name, 7, "h100-80gb").timeline
    peak = folded.peaks(timeline).num_bytes
    for most in (1, 10, 300):
        kept = samples.samples(timeline, most)
        assert len(kept) <= most
        assert max(sample.requested_bytes for sample in kept) == peak
        assert all(sum(sample.parts) == sample.requested_bytes and min(sample.parts) >= 0 for sample in kept)


@EVERY
@FAMILY
def test_the_highest_sample_says_what_is_alive_at_the_peak(config: dict[str, Any], name: str) -> None:
    timeline = step(config, name, 7, "h100-80gb").timeline
    highest = max(samples.samples(timeline, 40), key=lambda sample: sample.requested_bytes)
    alive = folded.alive(timeline, folded.peaks(timeline).point).components
    assert dict(zip(Component, highest.parts, strict=True)) == {kind: alive.get(kind, 0) for kind in Component}


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in PADDED])
@FAMILY
def test_every_further_layer_of_a_run_costs_the_same(config: dict[str, Any], name: str) -> None:
    """Once the highest point is in the same place, the peak grows by the same bytes with every layer."""
    peaks = [folded.peaks(step(config, name, depth, "h100-80gb").timeline).num_bytes for depth in (80, 81, 82)]
    assert peaks[1] - peaks[0] == peaks[2] - peaks[1] > 0

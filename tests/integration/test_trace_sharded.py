"""Traced ranks against real ones: gloo processes under torchrun, and the analytic engine, which knows the same rules.

Measured: every peak of FSDP over 2 and 4 ranks, HSDP 2 x 2, DDP, tensor parallelism and FSDP x tensor parallelism is
that of the real run within 40 bytes: scalars of the host that PyTorch itself makes.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import msgspec
import pytest
import torch
import torch.distributed as dist

from memprof.allocator import folded
from memprof.analytic.engine import play
from memprof.catalog.device_catalog import device
from memprof.errors import ConfigError, UnsupportedError
from memprof.model.scenario import Adapter, Batch, Loop, Optimizer, Parallelism, Scenario, Software
from memprof.model.timeline import Action, Component, Timeline
from memprof.semantics.device import Semantics, semantics_for
from memprof.trace.engine import trace
from memprof.workload.build import build
from tests.support.gloo import Measured, Run, launch
from tests.support.referee import CPU, architecture

HOST_BYTES = 40
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 301, "hidden_size": 64, "intermediate_size": 136, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "vocab_size": 203, "n_embd": 36, "n_layer": 2, "n_head": 3, "n_positions": 64,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def scenario(parallelism: Parallelism, precision: str = "fp32", **parts: Any) -> Scenario:
    batch = Batch(micro_batch_size=2, sequence_length=16, gradient_accumulation_steps=parts.pop("accumulation", 1))
    optimizer = Optimizer(implementation=parts.pop("implementation", "for-loop"))
    return Scenario(
        model="small", task="causal-lm", device="cpu", precision=precision,  # type: ignore[arg-type]
        batch=batch, optimizer=optimizer, parallelism=parallelism, loop=Loop(dropout=0.0), **parts,
    )  # fmt: skip


def traced(asked: Scenario, config: dict[str, Any], semantics: Semantics = CPU) -> Timeline:
    return trace(lambda: build(asked, config), asked, semantics).timeline


def stage_peaks(timeline: Timeline) -> list[int]:
    stages = folded.peaks(timeline).stages
    return [stages[name] for name in ("load", "first_step", "step")]


# ---- real ranks ----

FSDP_2, FSDP_4 = Parallelism(strategy="fsdp", data=2), Parallelism(strategy="fsdp", data=4)
HSDP, DDP = Parallelism(strategy="hsdp", data=2, replicate=2), Parallelism(strategy="ddp", data=2)
TENSOR, BOTH = Parallelism(tensor=2), Parallelism(strategy="fsdp", data=2, tensor=2)
CASES = {
    2: [(FSDP_2, "fp32"), (FSDP_2, "bf16-mixed"), (DDP, "fp32"), (TENSOR, "fp32")],
    4: [(FSDP_4, "fp32"), (FSDP_4, "bf16-mixed"), (HSDP, "bf16-mixed"), (BOTH, "fp32")],
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the real run of a case measured; all cases of a number of ranks are played in one launch."""

    @cache
    def run(num_ranks: int) -> list[Measured]:
        runs = [Run(scenario(*case), LLAMA) for case in CASES[num_ranks]]
        return launch(runs, num_ranks, tmp_path_factory.mktemp("gloo"))

    return lambda num_ranks, case: run(num_ranks)[CASES[num_ranks].index(case)]


@pytest.mark.parametrize(
    ("num_ranks", "case"),
    [(num_ranks, case) for num_ranks, cases in CASES.items() for case in cases],
    ids=lambda value: f"{value[0].strategy}-{value[0].tensor}-{value[1]}" if isinstance(value, tuple) else str(value),
)
def test_peaks_are_those_of_real_ranks(num_ranks: int, case: tuple[Parallelism, str], measured: Any) -> None:
    real = measured(num_ranks, case).peaks
    played = stage_peaks(traced(scenario(*case), LLAMA))
    if case[0].strategy == "ddp":  # while it is wrapped, what is sent from rank 0 is copied: more than is kept
        real, played = real[1:], played[1:]
    assert all(abs(ours - theirs) <= HOST_BYTES for ours, theirs in zip(played, real, strict=True)), (played, real)


# ---- the analytic engine ----

FUSED = {"implementation": "fused"}
SAME = [
    (LLAMA, Parallelism(strategy="hsdp", data=3, replicate=2), "bf16-mixed", {"accumulation": 2}),
    (LLAMA, FSDP_4, "bf16-mixed", {"adapter": Adapter(rank=3), "checkpointing": "full"}),
    (GPT2, Parallelism(strategy="ddp", data=5), "bf16-mixed", {"accumulation": 2}),
    (LLAMA, Parallelism(strategy="fsdp", data=1024), "bf16-mixed", FUSED),
]
SAME_SLOW = [
    (LLAMA, Parallelism(strategy="fsdp", data=3), "bf16", {"checkpointing": "full", "implementation": "foreach"}),
    (LLAMA | {"tie_word_embeddings": True}, FSDP_4, "fp32", FUSED),
    (GPT2, Parallelism(strategy="fsdp", data=5), "bf16-mixed", FUSED),
    (LLAMA, Parallelism(strategy="hsdp", data=128, replicate=8), "fp32", FUSED),
]
LOSS_BYTES = 4
"""The trace keeps the loss until the backward is over."""


@pytest.mark.parametrize(
    ("config", "parallelism", "precision", "parts"),
    [*SAME, *(pytest.param(*case, marks=pytest.mark.slow) for case in SAME_SLOW)],
)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
def test_both_engines_agree_on_rank_0(
    config: dict[str, Any], parallelism: Parallelism, precision: str, parts: Any
) -> None:
    asked = scenario(parallelism, precision, **dict(parts))
    ours, theirs = traced(asked, config), play(architecture(config), asked, CPU).timeline
    for mine, other in zip(stage_peaks(ours)[1:], stage_peaks(theirs)[1:], strict=True):
        assert 0 <= mine - other <= LOSS_BYTES
    assert kept(ours) == kept(theirs)


def kept(timeline: Timeline) -> dict[Component, int]:
    """What is there for good when the second step is over."""
    alive: dict[int, tuple[int, Component]] = {}
    for event in timeline.unroll():
        if event.action == Action.ALLOC:
            component = timeline.blocks.component[event.block % len(timeline.blocks.num_bytes)]
            alive[event.block] = (event.num_bytes, component)
        else:
            del alive[event.block]
    totals: dict[Component, int] = {}
    for num_bytes, component in alive.values():
        totals[component] = totals.get(component, 0) + num_bytes
    return totals


@pytest.mark.parametrize("parallelism", [pytest.param(FSDP_4, marks=pytest.mark.slow), HSDP])
def test_streams_and_components_of_communication_are_those_of_the_rules(parallelism: Parallelism) -> None:
    asked = msgspec.structs.replace(scenario(parallelism, "bf16-mixed", implementation="fused"), device="h100-80gb")
    semantics = semantics_for(device("h100-80gb"), Software())
    ours = traced(asked, LLAMA, semantics)
    theirs = play(architecture(LLAMA), asked, semantics).timeline
    assert made(ours) == made(theirs)


def made(timeline: Timeline) -> dict[tuple[Component, int], int]:
    """Bytes made on streams other than the compute stream, and for communication on any, in all stages."""
    blocks, totals = timeline.blocks, dict[tuple[Component, int], int]()
    for event in timeline.unroll():
        component = blocks.component[event.block % len(blocks.num_bytes)]
        if event.action == Action.ALLOC and (event.stream or component is Component.COMMUNICATION):
            key = component, int(event.stream)
            totals[key] = totals.get(key, 0) + event.num_bytes
    return totals


def test_buckets_are_rebuilt_by_the_reducer_itself() -> None:
    wide = LLAMA | {"hidden_size": 264, "head_dim": 66, "intermediate_size": 1400, "vocab_size": 9001}
    asked = scenario(DDP)
    ours, theirs = traced(asked, wide), play(architecture(wide), asked, CPU).timeline
    rebuilt = [made_by(ours, "aten::empty", Component.COMMUNICATION), made_by(theirs, "rebuild_buckets")]
    assert len(rebuilt[1]) > 1
    assert rebuilt[0][-len(rebuilt[1]) :] == rebuilt[1]


def made_by(timeline: Timeline, op: str, component: Component | None = None) -> list[int]:
    blocks = timeline.blocks
    return [
        blocks.num_bytes[block]
        for segment in timeline.segments
        for action, block, index in zip(segment.action, segment.block, segment.op, strict=True)
        if action == Action.ALLOC and index >= 0 and timeline.ops.name[index] == op
        and component in (None, blocks.component[block])
    ]  # fmt: skip


# ---- what it leaves behind, and what it refuses ----


def test_nothing_is_left_of_the_ranks() -> None:
    resize, hook = torch.UntypedStorage.resize_, sys.excepthook
    traced(scenario(BOTH), LLAMA)
    assert not dist.is_initialized()
    assert torch.UntypedStorage.resize_ is resize
    assert sys.excepthook is hook


def test_a_model_without_a_plan_is_not_split() -> None:
    with pytest.raises(UnsupportedError, match="GPT2LMHeadModel has no tensor-parallel plan"):
        traced(scenario(TENSOR), GPT2)


def test_heads_are_not_cut_through() -> None:
    with pytest.raises(ConfigError, match=r"parallelism.tensor is 4, which does not divide the 2 key-value heads"):
        traced(scenario(Parallelism(tensor=4)), LLAMA)

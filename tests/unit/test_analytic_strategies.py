"""Strategies around the program: what is freed was alive, folding loses nothing, more GPUs need no more each."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memprof.allocator import folded
from memprof.analytic.engine import play
from memprof.analytic.graph import Graph
from memprof.analytic.strategies import strategy_for
from memprof.analytic.strategies.base import Strategy
from memprof.analytic.strategies.ddp import DistributedDataParallel
from memprof.analytic.strategies.fsdp import FullyShard
from memprof.analytic.strategies.zero import Zero
from memprof.analytic.tape import Tape
from memprof.catalog.architectures import lay_out
from memprof.model.architecture import Architecture
from memprof.model.scenario import Adapter, Batch, Loop, Optimizer, Parallelism, Scenario
from memprof.model.timeline import Action, Component, Timeline, unroll_segment
from memprof.semantics.device import Semantics
from memprof.semantics.precision import plan
from memprof.semantics.sharding import Stream

CPU = Semantics(kind="cpu", architecture="cpu")
CUDA = Semantics(kind="cuda", architecture="sm_90")
STRATEGIES = {
    "none": Parallelism(),
    "ddp": Parallelism(strategy="ddp", data=4),
    "fsdp": Parallelism(strategy="fsdp", data=4),
    "hsdp": Parallelism(strategy="hsdp", data=4, replicate=2),
    "zero1": Parallelism(strategy="zero1", data=4),
    "zero2": Parallelism(strategy="zero2", data=4),
    "zero3": Parallelism(strategy="zero3", data=4),
}
SHARDED = ("fsdp", "hsdp", "zero1", "zero2", "zero3")


def llama(layers: int, **changes: Any) -> Architecture:
    return architecture(
        {
            "model_type": "llama", "vocab_size": 101, "hidden_size": 36, "intermediate_size": 50,
            "num_hidden_layers": layers, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 12,
        } | changes
    )  # fmt: skip


def gpt2(layers: int) -> Architecture:
    return architecture({"model_type": "gpt2", "vocab_size": 101, "n_embd": 36, "n_layer": layers, "n_head": 3})


def architecture(config: dict[str, Any]) -> Architecture:
    layout = lay_out(config)
    return Architecture(
        name="small", hf_id=None, model_type=layout.config["model_type"], task=layout.task, config=layout.config,
        stages=layout.stages, tied=layout.tied,
    )  # fmt: skip


def scenario(parallelism: Parallelism, precision: str = "bf16-mixed", **changes: Any) -> Scenario:
    accumulation = changes.pop("accumulation", 1)
    defaults: dict[str, Any] = {
        "batch": Batch(micro_batch_size=2, sequence_length=13, gradient_accumulation_steps=accumulation),
        "optimizer": Optimizer(implementation="foreach"),
    }
    return Scenario(model="small", precision=precision, parallelism=parallelism, **defaults | changes)  # type: ignore[arg-type]


def played(model: Architecture, settings: Scenario, semantics: Semantics = CUDA) -> Timeline:
    return play(model, settings, semantics).timeline


def kept(timeline: Timeline, component: Component) -> int:
    """Bytes of all layers' blocks of a component."""
    blocks = timeline.blocks
    return sum(
        num_bytes * (timeline.runs[run].count if run >= 0 else 1)
        for num_bytes, kind, home in zip(blocks.num_bytes, blocks.component, blocks.segment, strict=True)
        for run in [timeline.segments[home].run]
        if kind is component
    )


# ---- one strategy for each name ----


@pytest.mark.parametrize(
    ("name", "kind"),
    [("none", Strategy), ("ddp", DistributedDataParallel), ("fsdp", FullyShard), ("hsdp", FullyShard)]
    + [(f"zero{stage}", Zero) for stage in (1, 2, 3)],
)
def test_a_scenario_s_parallelism_names_its_strategy(name: str, kind: type[Strategy]) -> None:
    graph = Graph(Tape(), CUDA)
    assert type(strategy_for(graph, plan("bf16-mixed", name), STRATEGIES[name])) is kind  # type: ignore[arg-type]


# ---- lives ----


def play_flat(timeline: Timeline) -> int:
    """The highest bytes of the unrolled events.

    Fails where a free finds nothing, an allocation finds its block alive, or the last step leaves anything behind.
    """
    alive: dict[int, int] = {}
    before: list[int] = []
    now = highest = 0
    for _, segments in timeline.schedule:
        before = sorted(alive.values())
        for index in segments:
            for event in unroll_segment(timeline, index):
                if event.action == Action.ALLOC:
                    assert event.block not in alive
                    alive[event.block] = event.num_bytes
                    now += event.num_bytes
                    highest = max(highest, now)
                else:
                    now -= alive.pop(event.block)
    assert timeline.schedule[-1][0] == "step"
    assert sorted(alive.values()) == before
    return highest


@pytest.mark.parametrize("layers", [1, 2, 3, 6])
@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_freed_was_alive_and_folding_loses_nothing(name: str, layers: int) -> None:
    devices = ((CPU, "fp32"), (CUDA, "bf16-mixed"))
    ways = product((llama, gpt2), devices, ("none", "full"), (1, 3), ("after_step", "start"))
    for model, (semantics, precision), checkpointing, accumulation, zero_grad in ways:
        timeline = played(
            model(layers),
            scenario(
                STRATEGIES[name],
                precision,
                checkpointing=checkpointing,
                accumulation=accumulation,
                loop=Loop(zero_grad=zero_grad),
            ),
            semantics,
        )
        assert folded.peaks(timeline).num_bytes == play_flat(timeline)


@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("name", ["ddp", "fsdp", "hsdp", "zero2"])
def test_adapters_keep_the_lives_in_order(name: str, layers: int, checkpointing: str) -> None:
    timeline = played(
        llama(layers), scenario(STRATEGIES[name], "fp32", checkpointing=checkpointing, adapter=Adapter(rank=3))
    )
    assert folded.peaks(timeline).num_bytes == play_flat(timeline)


# ---- FSDP ----


def test_buffers_are_made_on_fsdp_s_streams_on_a_gpu_alone() -> None:
    on = {kind: set(played(llama(3), scenario(STRATEGIES["hsdp"]), kind).blocks.stream) for kind in (CPU, CUDA)}
    assert on[CPU] == {Stream.COMPUTE}
    assert on[CUDA] == {Stream.COMPUTE, Stream.COPY_IN, Stream.REDUCE_SCATTER}


def test_no_more_than_two_layers_are_gathered_at_a_time() -> None:
    """A layer's flat buffer and its neighbour's, and one layer's weights, however deep the model."""

    def communication(layers: int) -> int:
        timeline = played(llama(layers), scenario(STRATEGIES["fsdp"]))
        return folded.alive(timeline, folded.peaks(timeline).point).components[Component.COMMUNICATION]

    assert communication(20) == communication(4)


def test_an_adapter_is_sharded_with_the_layer_it_belongs_to() -> None:
    """Over 8 ranks a pair of 3 x 36 and 36 x 3 takes 1 and 5 rows, of 3 x 36 and 12 x 3 takes 1 and 2."""
    timeline = played(llama(4), scenario(Parallelism(strategy="fsdp", data=8), "fp32", adapter=Adapter(rank=3)))
    per_layer = (36 + 5 * 3 + 36 + 2 * 3) * 4  # A and B of q_proj, A and B of v_proj
    assert kept(timeline, Component.GRADIENTS) == 4 * per_layer


# ---- DDP ----


def test_ddp_s_buckets_hold_every_gradient_in_the_first_and_in_later_steps() -> None:
    timeline = played(llama(6, hidden_size=384, head_dim=128), scenario(STRATEGIES["ddp"]))
    blocks = timeline.blocks
    made: dict[str, list[int]] = {}
    for segment in timeline.segments:
        for action, block, op in zip(segment.action, segment.block, segment.op, strict=True):
            if action == Action.ALLOC and blocks.component[block] is Component.COMMUNICATION:
                made.setdefault(timeline.ops.name[op], []).append(blocks.num_bytes[block])
    gradients = kept(timeline, Component.GRADIENTS)
    assert made["DistributedDataParallel"] == [gradients]
    assert len(made["rebuild_buckets"]) > 1
    assert sum(made["rebuild_buckets"]) == gradients


# ---- more GPUs ----

worlds = st.integers(2, 32)
dims = st.integers(1, 20)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHARDED), worlds, st.integers(1, 32), dims, dims, st.integers(1, 300))
def test_more_shards_never_keep_more_and_run_the_same_kernels(
    name: str, world: int, more: int, width: int, wide: int, vocab: int
) -> None:
    model = llama(2, hidden_size=6 * width, head_dim=2 * width, intermediate_size=wide, vocab_size=vocab)
    few, many = (
        played(model, scenario(Parallelism(strategy=name, data=data, replicate=2 if name == "hsdp" else 1)))  # type: ignore[arg-type]
        for data in (world, world + more)
    )
    aligned = 2 * 2 * (world + more) if name in ("zero1", "zero2") else 0  # to two 16-bit elements a GPU
    for component in (Component.WEIGHTS, Component.GRADIENTS, Component.OPTIMIZER_STATES):
        # The last rank, whose gradients ZeRO-2 reduces first, has the padding, which can be more with fewer GPUs.
        slack = aligned if component in (Component.WEIGHTS, Component.GRADIENTS) else 0
        assert kept(many, component) <= kept(few, component) + slack
    assert many.ops.name == few.ops.name
    assert many.ops.flops == few.ops.flops


@pytest.mark.parametrize("name", STRATEGIES)
def test_gradients_that_outlast_a_step_make_one_that_can_be_repeated(name: str) -> None:
    loop = Loop(keep_outputs=True, zero_grad="start")
    scenario = Scenario(
        model="x", batch=Batch(sequence_length=5), precision="bf16", loop=loop, parallelism=STRATEGIES[name]
    )
    timeline = play(llama(3), scenario, CUDA).timeline
    alive: set[int] = set()
    for _, segments in [*timeline.schedule, *timeline.schedule[-1:] * 2]:
        for index in segments:
            for event in unroll_segment(timeline, index):
                if event.action == Action.ALLOC:
                    alive.add(event.block)
                elif event.action != Action.FREE_REQUESTED:
                    alive.remove(event.block)

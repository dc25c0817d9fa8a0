"""The engine's sharded steps against real ``fully_shard`` and DDP steps of small Hugging Face models on the CPU.

FSDP runs as rank 0 of a fake process group, whose collectives move nothing and allocate what gloo's do; DDP runs on a
group of one. DeepSpeed is not run: its figures are held against sums of its rules, worked here by hand.
"""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import accumulate, product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from memprof import api
from memprof.allocator import folded
from memprof.analytic.engine import play
from memprof.measure.gloo import scratch
from memprof.model.scenario import Adapter, Batch, Loop, Optimizer, Parallelism, Scenario
from memprof.model.timeline import Action, Timeline
from memprof.workload.chunked_loss import chunk_loss
from tests.support import draws
from tests.support.referee import CPU, architecture, labels_of, memory_events

HOST_BYTES = 320
"""Left out by the engine: DDP's index tensors and buffer copies, scalars that optimizers make."""
NEAR = 0.001
"""Of a larger peak: a recomputed product lets its input go before it sums its bias's gradient, not after."""
DEPTHS = (1, 2, 5)
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 101, "hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 3,
    "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 256,
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "vocab_size": 203, "n_embd": 36, "n_layer": 2, "n_head": 3, "n_positions": 64,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


class Case(NamedTuple):
    """A small model and how one rank's step of it runs."""

    config: dict[str, Any]
    parallelism: Parallelism
    precision: str = "fp32"
    checkpointing: str = "none"
    implementation: str = "fused"
    accumulation: int = 1
    zero_grad: str = "after_step"
    batch: int = 2
    length: int = 13
    rank: int = 0
    loss: str = "full"

    def scenario(self, model: str = "small") -> Scenario:
        return Scenario(
            model=model,
            device="cpu",
            precision=self.precision,  # type: ignore[arg-type]
            checkpointing=self.checkpointing,  # type: ignore[arg-type]
            loss=self.loss,  # type: ignore[arg-type]
            batch=Batch(
                micro_batch_size=self.batch,
                sequence_length=self.length,
                gradient_accumulation_steps=self.accumulation,
            ),
            optimizer=Optimizer(implementation=self.implementation),  # type: ignore[arg-type]
            parallelism=self.parallelism,
            adapter=Adapter(rank=self.rank) if self.rank else None,
            loop=Loop(dropout=0.0, zero_grad=self.zero_grad),  # type: ignore[arg-type]
        )

    def timeline(self) -> Timeline:
        return play(architecture(self.config), self.scenario(), CPU).timeline


def sharded(strategy: str, world: int, replicas: int = 1) -> Parallelism:
    return Parallelism(strategy=strategy, data=world, replicate=replicas)  # type: ignore[arg-type]


# ---- the real run ----


@contextmanager
def ranks(parallelism: Parallelism) -> Iterator[None]:
    if parallelism.strategy == "ddp":
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    else:
        world_size = parallelism.data * parallelism.replicate
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def real_model(case: Case) -> tuple[Any, Any]:
    """The model, and its layers."""
    torch.set_num_threads(1)
    no_dropout = dict.fromkeys(("attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    config = CONFIG_MAPPING[case.config["model_type"]](**case.config | no_dropout, use_cache=False)
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if case.loss == "chunked":
        chunk_loss(model)
    layers = model.model.layers if hasattr(model, "model") else model.transformer.h
    if case.checkpointing == "full":
        model.activation_checkpointing_enable()
    if case.rank:
        if case.checkpointing == "full":
            model.enable_input_require_grads()
        model = get_peft_model(model, LoraConfig(r=case.rank))
    return model.train(), layers


def distributed(model: Any, layers: Any, case: Case) -> Any:
    parallelism = case.parallelism
    if parallelism.strategy == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (parallelism.data,))
    if parallelism.strategy == "hsdp":
        shape = (parallelism.replicate, parallelism.data)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))
    policy = MixedPrecisionPolicy()
    if case.precision == "bf16-mixed":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for module in (*layers, model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    return model


class Real:
    """A model under its strategy, ready to run steps. Blocks are recorded from wrapping on, so that their ends are."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model, layers = real_model(case)
        wrapped: list[Any] = []
        memory_events(lambda: wrapped.append(distributed(self.model, layers, case)))
        self.wrapped = wrapped[0]
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        flags = {"fused": case.implementation == "fused", "foreach": case.implementation == "foreach"}
        self.optimizer = torch.optim.AdamW(self.parameters, **flags)
        ids = torch.randint(0, case.config["vocab_size"], (case.batch, case.length))
        self.inputs = {"input_ids": ids, "labels": labels_of(ids, case.loss)}

    def autocast(self) -> AbstractContextManager[Any]:
        amp = self.case.precision == "bf16-mixed" and self.case.parallelism.strategy == "ddp"
        return torch.autocast("cpu", dtype=torch.bfloat16) if amp else nullcontext()

    def backward(self) -> None:
        with self.autocast():
            loss = self.wrapped(**self.inputs).loss
        loss.backward()

    def step(self) -> None:
        if self.case.zero_grad == "start":
            self.optimizer.zero_grad()
        for _ in range(self.case.accumulation):
            self.backward()
        self.optimizer.step()
        if self.case.zero_grad == "after_step":
            self.optimizer.zero_grad()


@contextmanager
def real(case: Case) -> Iterator[Real]:
    """Nothing of an earlier run may die in this one: modules and hooks of FSDP are garbage in cycles."""
    gc.collect()
    gc.disable()
    try:
        with ranks(case.parallelism), scratch():
            yield Real(case)
    finally:
        gc.enable()


# ---- peaks ----


def measured_peaks(case: Case) -> list[int]:
    """Highest bytes of the first and the second step, above what was alive before the first."""
    with real(case) as run:
        first = list(accumulate(memory_events(run.step), initial=0))
        second = list(accumulate(memory_events(run.step), initial=first[-1]))
    return [max(first), max(second)]


def predicted_peaks(case: Case) -> list[int]:
    stages = folded.peaks(case.timeline()).stages
    return [stages["first_step"] - stages["load"], stages["step"] - stages["load"]]


def compare(case: Case) -> None:
    for measured, predicted in zip(measured_peaks(case), predicted_peaks(case), strict=True):
        assert abs(predicted - measured) <= max(HOST_BYTES, NEAR * measured), (predicted, measured, str(case))


def drawn(draw: random.Random, parallelism: Parallelism, precision: str) -> Case:
    family = draw.choice(("llama", "qwen2", "gpt2"))
    depth = {"n_layer" if family == "gpt2" else "num_hidden_layers": draw.choice(DEPTHS)}
    batch, length = draws.shape(draw)
    return Case(
        draws.config(draw, family) | depth,
        parallelism,
        precision,
        draw.choice(("none", "full")),
        draw.choice(("fused", "foreach", "for-loop")),
        draw.choice((1, 2)),
        draw.choice(("after_step", "start")),
        batch,
        max(length, 2),
    )


STRATEGIES = (sharded("fsdp", 2), sharded("fsdp", 4), sharded("fsdp", 8), sharded("hsdp", 4, 2), sharded("ddp", 2))
GRID = pytest.mark.parametrize(
    ("parallelism", "precision"),
    list(product(STRATEGIES, ("fp32", "bf16", "bf16-mixed"))),
    ids=lambda value: f"{value.strategy}-{value.data}" if isinstance(value, Parallelism) else value,
)


@GRID
def test_peaks_of_the_first_two_steps_are_those_of_real_runs(parallelism: Parallelism, precision: str) -> None:
    compare(drawn(draws.drawer(), parallelism, precision))


@pytest.mark.slow
@GRID
def test_peaks_are_those_of_real_runs_over_many_shapes(parallelism: Parallelism, precision: str) -> None:
    draw = draws.drawer()
    for _ in range(8):
        compare(drawn(draw, parallelism, precision))


@pytest.mark.parametrize("parallelism", STRATEGIES, ids=lambda each: f"{each.strategy}-{each.data}")
def test_peaks_with_a_chunked_loss_are_those_of_real_runs(parallelism: Parallelism) -> None:
    draw = draws.drawer()
    compare(drawn(draw, parallelism, draw.choice(("fp32", "bf16", "bf16-mixed")))._replace(loss="chunked"))


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning", "ignore:fan_in_fan_out:UserWarning")
def test_peaks_with_adapters_are_those_of_real_runs(config: dict[str, Any], checkpointing: str) -> None:
    """Behind a frozen embedding the first layer is reduced after the root, unless its input is made to need one."""
    compare(Case(config, sharded("fsdp", 4), "bf16-mixed", checkpointing, rank=3))


def test_gradients_are_padded_on_their_way_into_the_reduction() -> None:
    """Where nothing else is large, the CPU's padded copies are the peak."""
    compare(Case(GPT2 | {"n_embd": 30}, sharded("fsdp", 8), "bf16-mixed", "full", batch=8, length=3))


# ---- DDP's buckets ----


@pytest.mark.parametrize(
    "config",
    [
        LLAMA | {"hidden_size": 264, "head_dim": 88, "intermediate_size": 1400, "vocab_size": 9001}
        | {"tie_word_embeddings": True},
        GPT2 | {"n_embd": 264, "vocab_size": 3001, "n_layer": 6},
    ],
    ids=["llama", "gpt2"],
)  # fmt: skip
def test_buckets_are_rebuilt_in_the_order_in_which_gradients_become_ready(config: dict[str, Any]) -> None:
    case = Case(config, sharded("ddp", 2), batch=1, length=3)
    with real(case) as run:
        for _ in range(3):
            run.step()
        sizes = run.wrapped._get_ddp_logging_data()["rebuilt_bucket_sizes"]
    assert sizes.split(", ") == [str(size) for size in made_in(case.timeline(), "rebuild_buckets")]


def made_in(timeline: Timeline, op: str) -> list[int]:
    return [
        timeline.blocks.num_bytes[block]
        for segment in timeline.segments
        for action, block, index in zip(segment.action, segment.block, segment.op, strict=True)
        if action == Action.ALLOC and timeline.ops.name[index] == op
    ]


# ---- what a rank keeps ----


def local_bytes(tensors: Iterable[Any]) -> int:
    parts = [t.to_local() if isinstance(t, dist.tensor.DTensor) else t for t in tensors]
    return sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("parallelism", [sharded("fsdp", 7), sharded("hsdp", 5, 2), sharded("ddp", 2)])
def test_weights_gradients_and_states_are_those_of_rank_0(
    parallelism: Parallelism, config: dict[str, Any], precision: str, tmp_path: Path
) -> None:
    """No row count divides by 5 or 7, so every shard is padded or cut."""
    case = Case(config, parallelism, precision, length=3)
    with real(case) as run:
        run.backward()
        run.optimizer.step()
        kept = {
            "weights": local_bytes(run.model.parameters()),
            "gradients": local_bytes(p.grad for p in run.parameters),
            "optimizer_states": local_bytes(t for state in run.optimizer.state.values() for t in state.values()),
        }
    assert estimated(case, tmp_path) == kept


def estimated(case: Case, folder: Path) -> dict[str, int]:
    path = folder / "config.json"
    path.write_text(json.dumps(case.config))
    return api.estimate(case.scenario(str(path))).persistent_bytes


# ---- ZeRO, by hand ----

TINY = GPT2 | {"n_layer": 1, "n_embd": 6, "n_head": 2, "vocab_size": 20001, "n_positions": 5}
"""wte 20001 x 6 = 120006, wpe 30; ln_1, ln_2, ln_f 12 each; c_attn 108 + 18, c_proj 36 + 6; c_fc 144 + 24, c_proj
144 + 6: 120006 + 30 + 36 + 126 + 42 + 168 + 150 = 120558 elements in 16 tensors."""
NUM_ELEMENTS = 120558
STEP = 4
"""Fused AdamW's step counter, float32, for each flat tensor."""


def zero(stage: int, folder: Path) -> tuple[int, int, int]:
    case = Case(TINY, sharded(f"zero{stage}", 8), "bf16-mixed", length=3)
    kept = estimated(case, folder)
    return kept["weights"], kept["gradients"], kept["optimizer_states"]


def test_zero_1_and_2_keep_all_16_bit_weights_and_a_part_of_the_states(tmp_path: Path) -> None:
    """Aligned to 2 x 8: 120560; a part is 15070 elements. Rank 0's lies within wte, which it reduces whole; the last
    rank's, which in stage 2 holds most for longest, begins in wte and has all else.
    """
    states = 15070 * (4 + 4 + 4) + STEP  # master, two moments
    assert zero(1, tmp_path) == (120560 * 2, NUM_ELEMENTS * 2 + 120006 * 2, states)
    assert zero(2, tmp_path) == (120560 * 2, NUM_ELEMENTS * 2, states)


def test_zero_3_keeps_a_part_of_each_tensor_and_small_ones_whole(tmp_path: Path) -> None:
    """An eighth of each, rounded up: wte 15001, wpe 4, three norms 6 x 1, c_attn 14 + 3, c_proj 5 + 1, c_fc 18 + 3,
    c_proj 18 + 1: 15074. All but wte are below 100000 elements: 552 more are kept whole.
    """
    part = 15001 + 4 + 6 + 17 + 6 + 21 + 19
    assert zero(3, tmp_path) == ((part + 552) * 2, part * 2, part * 12 + STEP)

"""The sharding rules against real FSDP2 and DDP objects on the CPU: bytes exact, order of events exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import msgspec
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.profiler import profile
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.checkpoint import checkpoint

from memprof.model.timeline import Action
from memprof.semantics import ddp, fsdp
from memprof.semantics.precision import ACCELERATE, PLANS, Dtypes, Plan
from memprof.semantics.sharding import Move, ShardedParameter, shard_bytes
from tests.support.memory_profile import memory_profile

NUM_LAYERS = 3
MADE_IN_A_STEP = ("cast", "gathered", "unsharded", "reduce_input", "reduced", "sharded_gradients", "new_gradients")
RECAST = msgspec.structs.replace(PLANS["bf16-mixed", "fsdp"], reduce="bfloat16")
"""Reduced in another dtype than the shards', so that gradients are cast once more, as under accelerate."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(31, 67)
        self.down = nn.Linear(67, 31, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    """Every dim is odd, so that shards are padded and no activation has the size of a buffer."""

    def __init__(self, checkpointing: bool = False) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.embed = nn.Embedding(101, 31)
        self.layers = nn.ModuleList(Block() for _ in range(NUM_LAYERS))
        self.head = nn.Linear(31, 101, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.checkpointing else layer(x)
        return self.head(x).float().sum()


@contextmanager
def fake_ranks(world: int) -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def described(module: nn.Module, nested: nn.Module | None = None) -> list[ShardedParameter]:
    skip = {id(p) for p in nested.parameters()} if nested else set()
    own = [p for p in module.parameters() if id(p) not in skip]
    return [ShardedParameter(tuple(p.shape), name_of(p.dtype), p.requires_grad) for p in own]


def shard(model: Net, row: Dtypes, world: int, replicas: int = 1, split_root: bool = False) -> None:
    mesh = init_device_mesh("cpu", (world,))
    if replicas > 1:
        mesh = init_device_mesh("cpu", (replicas, world), mesh_dim_names=("replicate", "shard"))
    policy = MixedPrecisionPolicy(
        param_dtype=getattr(torch, row.gather) if row.gather != row.weights else None,
        reduce_dtype=getattr(torch, row.reduce),
    )
    for module in (*model.layers, *([model.embed] if split_root else [])):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    if split_root:
        fully_shard(model.head, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, mp_policy=policy)


class Player:
    """Plays moves over the units of ``Net`` and notes bytes gained and lost, as an engine would."""

    def __init__(self, units: dict[str, fsdp.Unit], gradients: dict[str, tuple[int, int]]) -> None:
        self.units, self.gradients = units, gradients
        self.changes: list[int] = []

    def play(self, moves: tuple[Move, ...], kind: str, before: str | None = None, after: str | None = None) -> None:
        for action, buffer, of in moves:
            who = {"own": kind, "before": before, "after": after}[of]
            if who is None:
                continue
            if buffer in ("gradients", "last_gradient"):
                num_bytes = self.gradients[who][buffer == "last_gradient"]
            else:
                num_bytes = getattr(self.units[who], buffer).total
            if num_bytes:
                self.changes.append(num_bytes if action is Action.ALLOC else -num_bytes)

    def step(self, accumulate: bool = False, stem_frozen: bool = False) -> None:
        self.play(fsdp.FORWARD_ENTER, "root")
        for index in range(NUM_LAYERS):
            self.play(fsdp.FORWARD_ENTER, "layer", before="layer" if index else "root")
            self.play(fsdp.FORWARD_EXIT, "layer")
        self.play(fsdp.FORWARD_END, "root", before="layer")
        self.play(fsdp.BACKWARD_ENTER_ROOT, "root", after="layer")
        exits = []
        for index in reversed(range(NUM_LAYERS)):
            self.play(fsdp.BACKWARD_ENTER, "layer", after="layer" if index else None)
            exits.append("layer")
            if index or not stem_frozen:
                self.leave(exits, accumulate)
        exits.insert(len(exits) - stem_frozen, "root")
        for num in range(NUM_LAYERS + 1 - stem_frozen, NUM_LAYERS + 2):
            self.leave(exits[:num], accumulate)
        for kind in ("root", *["layer"] * NUM_LAYERS):
            self.play(fsdp.backward_end(self.units[kind], accumulate), kind)
        self.play(fsdp.BACKWARD_END, exits[-1])

    def leave(self, exits: list[str], accumulate: bool) -> None:
        """The last of ``exits`` is reduced; the one before it gives up its buffer."""
        moves = fsdp.backward_exit(self.units[exits[-1]], accumulate)
        self.play(moves, exits[-1], before=exits[-2] if len(exits) > 1 else None)


def merged(changes: list[int]) -> list[int]:
    """Neighbouring allocations, and neighbouring frees, added up: order among them is of no consequence."""
    return [sum(run) for _, run in groupby(changes, key=lambda change: change > 0)]


def memory_events(recorded: profile) -> list[tuple[int, int, tuple[str, ...]]]:
    """(bytes, address, names of the enclosing ops) in order of time."""
    found: list[tuple[int, int, int, tuple[str, ...]]] = []

    def visit(node: Any, ops: tuple[str, ...]) -> None:
        if node.tag.name == "Allocation":
            fields = node.extra_fields
            found.append((node.start_time_ns, fields.alloc_size, fields.ptr, ops))
        inner = (*ops, node.name) if node.tag.name == "TorchOp" else ops
        for child in node.children:
            visit(child, inner)

    assert recorded.profiler is not None
    assert recorded.profiler.kineto_results is not None
    for root in recorded.profiler.kineto_results.experimental_event_tree():
        visit(root, ())
    return [event[1:] for event in sorted(found, key=lambda event: event[0])]


def real_changes(recorded: profile, buffers: set[int], gradients: set[int]) -> list[int]:
    """Bytes of FSDP's buffers as they come and go, and of autograd's gradients as they go."""
    changes, live = [], {}
    for size, address, ops in memory_events(recorded):
        if size > 0 and "aten::_chunk_cat" not in ops and size in buffers | gradients:
            live[address] = size
            changes += [size] if size in buffers else []
        elif size < 0 and address in live:
            del live[address]
            changes.append(size)
    return changes


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(
    ("plan", "world", "replicas"),
    [
        (PLANS["fp32", "fsdp"], 4, 1),
        (PLANS["bf16-mixed", "fsdp"], 4, 1),
        (PLANS["bf16-mixed", "fsdp"], 7, 1),
        (PLANS["bf16", "fsdp"], 5, 1),
        (RECAST, 4, 1),
        (PLANS["bf16-mixed", "hsdp"], 4, 2),
        (RECAST, 4, 2),
    ],
)
def test_fsdp_makes_and_frees_its_buffers_in_the_order_of_the_moves(
    plan: Plan, world: int, replicas: int, accumulate: bool
) -> None:
    real, player = both(Net(), plan, world, replicas, accumulate)
    player.step(accumulate)
    assert merged(real) == merged(player.changes)


def test_checkpointing_gathers_nothing_more() -> None:
    real, player = both(Net(checkpointing=True), PLANS["bf16-mixed", "fsdp"], 4)
    player.step()
    assert merged(real) == merged(player.changes)


def test_frozen_parameters_are_gathered_and_not_reduced() -> None:
    model = Net()
    for layer in model.layers:
        layer.up.weight.requires_grad_(False)
    real, player = both(model, PLANS["bf16-mixed", "fsdp"], 4)
    player.step()
    assert merged(real) == merged(player.changes)


def test_a_first_layer_behind_a_frozen_stem_is_reduced_after_the_root() -> None:
    model = Net()
    model.embed.weight.requires_grad_(False)
    real, player = both(model, PLANS["bf16-mixed", "fsdp"], 4)
    player.step(stem_frozen=True)
    assert merged(real) == merged(player.changes)


def test_an_embedding_and_a_head_of_their_own_are_played_as_a_layer_and_as_a_root() -> None:
    """What torchtitan and accelerate wrap: the head is not resharded, the root has no parameters left."""
    real, player = both(Net(), PLANS["bf16-mixed", "fsdp"], 4, split_root=True)
    order = ["embed", *["layer"] * NUM_LAYERS, "head"]
    for index, kind in enumerate(order):
        player.play(fsdp.FORWARD_ENTER, kind, before=order[index - 1] if index else None)
        player.play(() if kind == "head" else fsdp.FORWARD_EXIT, kind)
    player.play(fsdp.FORWARD_END, "head", before="head")
    for index, kind in reversed(list(enumerate(order))):
        enter = fsdp.BACKWARD_ENTER_ROOT if kind == "head" else fsdp.BACKWARD_ENTER
        player.play(enter, kind, after=order[index - 1] if index else None)
        player.leave(order[index:][::-1], accumulate=False)
    player.play(fsdp.BACKWARD_END, "embed")
    assert merged(real) == merged(player.changes)


def both(
    model: Net, plan: Plan, world: int, replicas: int = 1, accumulate: bool = False, split_root: bool = False
) -> tuple[list[int], Player]:
    """The real changes of a second step, and a player that has yet to play it."""
    model.to(getattr(torch, plan.weights))
    parts = {"layer": described(model.layers[0])}
    if split_root:
        parts |= {"embed": described(model.embed), "head": described(model.head)}
    else:
        parts |= {"root": described(model, model.layers)}
    units = {kind: fsdp.unit(parameters, plan, world, replicas) for kind, parameters in parts.items()}
    with fake_ranks(world * replicas):
        shard(model, plan, world, replicas, split_root)
        recorded = second_backward(model, lambda: model(torch.arange(5)[None]), accumulate)
    return compared(recorded, parts, units, plan)


def second_backward(model: nn.Module, loss: Callable[[], torch.Tensor], accumulate: bool = False) -> profile:
    loss().backward()
    if not accumulate:
        model.zero_grad(set_to_none=True)
    with memory_profile() as recorded:
        loss().backward()
    return recorded


def compared(
    recorded: profile, parts: dict[str, list[ShardedParameter]], units: dict[str, fsdp.Unit], plan: Plan
) -> tuple[list[int], Player]:
    item = getattr(torch, plan.gather).itemsize
    trained = {kind: [p.numel * item for p in parameters if p.trainable] for kind, parameters in parts.items()}
    gradients = {kind: (sum(sizes[:-1]), sizes[-1]) for kind, sizes in trained.items()}
    buffers = {size for unit in units.values() for name in MADE_IN_A_STEP for size in getattr(unit, name).num_bytes}
    changes = real_changes(recorded, buffers, {size for sizes in trained.values() for size in sizes})
    return changes, Player(units, gradients)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_hugging_face_llama_plays_the_same_moves(checkpointing: bool) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    plan, world = PLANS["bf16-mixed", "fsdp"], 7
    config = LlamaConfig(
        hidden_size=36, num_attention_heads=3, num_key_value_heads=3, head_dim=12, intermediate_size=50,
        vocab_size=101, num_hidden_layers=NUM_LAYERS, use_cache=False, tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    layers = model.model.layers
    parts = {"root": described(model, layers), "layer": described(layers[0])}
    units = {kind: fsdp.unit(parameters, plan, world) for kind, parameters in parts.items()}
    ids = torch.arange(5)[None]
    with fake_ranks(world):
        mesh = init_device_mesh("cpu", (world,))
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for module in (*layers, model):
            fully_shard(module, mesh=mesh, mp_policy=policy)
        recorded = second_backward(model, lambda: model(input_ids=ids, labels=ids).loss)
    real, player = compared(recorded, parts, units, plan)
    player.step()
    assert merged(real) == merged(player.changes)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8, 13, 63, 64])
def test_shards_gradients_and_states_are_exact_for_any_world(world: int) -> None:
    with fake_ranks(world):
        model = Net()
        expected = [shard_bytes(p, world) for p in described(model)]
        shard(model, PLANS["fp32", "fsdp"], world)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.arange(5)[None]).backward()
        optimizer.step()

        def local(tensor: Any) -> int:
            part = tensor.to_local()
            return part.numel() * part.element_size()

        parameters = list(model.parameters())
        assert [p.to_local().untyped_storage().nbytes() for p in parameters] == expected
        assert [local(p.grad) for p in parameters] == expected
        for state in ("exp_avg", "exp_avg_sq"):
            assert [local(optimizer.state[p][state]) for p in parameters] == expected
        if world > 1:
            unit = fsdp.unit(described(model.layers[0]), PLANS["fp32", "fsdp"], world)
            kept = model.layers[0].up.weight.grad.to_local().untyped_storage()
            assert kept.nbytes() == unit.sharded_gradients.total


@pytest.mark.parametrize(("precision", "argument"), [("bf16-mixed", "bf16"), ("fp16-mixed", "fp16")])
def test_accelerate_gathers_and_reduces_in_sixteen_bits(precision: str, argument: str) -> None:
    from accelerate import FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
    plugin.set_mixed_precision(argument)
    policy, row = plugin.mixed_precision_policy, ACCELERATE[precision]
    assert (name_of(policy.param_dtype), name_of(policy.reduce_dtype)) == (row.gather, row.reduce)


@contextmanager
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def bucket_sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(", ")]


def test_ddp_buckets_before_and_after_they_are_rebuilt() -> None:
    with one_rank():
        model = nn.Sequential(nn.Linear(701, 313), nn.Linear(313, 1501), nn.Linear(1501, 901), nn.Linear(901, 7001))
        gradients = [(tuple(p.shape), name_of(p.dtype)) for p in model.parameters()]
        with memory_profile() as built:
            wrapped = nn.parallel.DistributedDataParallel(model)
        sizes = [size for size, _, _ in memory_events(built)]
        assert ddp.first_buckets(gradients).total in sizes
        assert ddp.broadcast_buffers(gradients) == (sum(p.numel() for p in model.parameters()) * 4,)
        for num in range(3):
            with memory_profile() as stepped:
                wrapped(torch.randn(2, 701)).sum().backward()
            if num == 1:
                rebuilt = [size for size, _, _ in memory_events(stepped)]
            wrapped.zero_grad()
        logged = wrapped._get_ddp_logging_data()
    freed = rebuilt.index(-ddp.first_buckets(gradients).total)
    made = [rebuilt.index(size) for size in ddp.rebuilt_buckets(gradients[::-1]).num_bytes]
    assert made == sorted(made)
    assert freed < made[0]
    assert bucket_sizes(logged["bucket_sizes"]) == list(ddp.first_buckets(gradients).num_bytes)
    assert bucket_sizes(logged["rebuilt_bucket_sizes"]) == list(ddp.rebuilt_buckets(gradients[::-1]).num_bytes)


numels = st.lists(
    st.tuples(st.integers(1, 20_000_000), st.sampled_from(["float32", "bfloat16"])), min_size=1, max_size=20
)


@settings(max_examples=60)
@given(numels)
def test_ddp_bucket_assignment_is_that_of_torch(drawn: list[tuple[int, str]]) -> None:
    tensors = [torch.empty(numel, dtype=getattr(torch, dtype), device="meta") for numel, dtype in drawn]
    limits = [ddp.FIRST_BUCKET_BYTES, ddp.BUCKET_BYTES]
    indices, _ = dist._compute_bucket_assignment_by_size(tensors, limits, [False] * len(tensors))
    real = [sum(tensors[i].nbytes for i in bucket) for bucket in indices]
    assert sorted(real) == sorted(ddp.rebuilt_buckets([((n,), dtype) for n, dtype in drawn]).num_bytes)
    assert dist._DEFAULT_FIRST_BUCKET_BYTES == ddp.FIRST_BUCKET_BYTES

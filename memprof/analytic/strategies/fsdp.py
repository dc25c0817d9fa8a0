"""FSDP2 and HSDP around a program: plays the moves that ``semantics.fsdp`` tells, unit by unit.

A unit is a stretch of parameters: the root, the first layer, or one layer that stands for its run. What a layer's move
does to its neighbour's buffer is a carry of the run.
"""

from __future__ import annotations

from collections.abc import Iterable

from memprof.analytic.autograd import Leaf, Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.strategies.base import Strategy
from memprof.analytic.stretch import Stretch
from memprof.analytic.tape import Storage
from memprof.model.timeline import Action, Component
from memprof.semantics import fsdp
from memprof.semantics.gloo import scratch_bytes
from memprof.semantics.optimizer_program import Shape
from memprof.semantics.precision import Plan
from memprof.semantics.sharding import Move, ShardedParameter, Stream, shard_bytes, shard_shape

ROOT = 0


class UnitState:
    """One unit's buffers that are alive now, by name; gradients are the leaves' own."""

    def __init__(self, stretch: Stretch, rules: fsdp.Unit) -> None:
        self.stretch = stretch
        self.rules = rules
        self.alive: dict[str, list[Storage]] = {}


class FullyShard(Strategy):
    """``fully_shard`` on every layer and the root. The root's parameters are one unit, wherever they stand in load."""

    def __init__(self, graph: Graph, plan: Plan, world: int, replicas: int) -> None:
        super().__init__(graph)
        self.plan = plan
        self.world = world
        self.replicas = replicas
        self.casts = plan.gather != plan.weights
        self.parameters: list[list[ShardedParameter]] = []
        self.placed: list[ShardedParameter] = []
        self.units: list[UnitState] = []
        self.shards: dict[int, tuple[Shape, str]] = {}
        self.visited: UnitState | None = None
        self.reduced: UnitState | None = None
        self.late: list[UnitState] = []
        self.accumulating = False

    # ---- load ----

    def place(self, shape: Shape, dtype: str, trainable: bool) -> Tensor:
        parameter = ShardedParameter(shape, dtype, trainable)
        tape = self.graph.tape
        tape.survivors.append(tape.alloc(shard_bytes(parameter, self.world), Component.WEIGHTS))
        tensor = self.absent(shape, self.plan.gather if self.casts else dtype)
        self.shards[id(tensor)] = (shard_shape(shape, self.world), dtype)
        self.placed.append(parameter)
        return tensor

    def stretch_begins(self, index: int) -> None:
        if index == len(self.parameters):
            self.parameters.append([])
        self.placed = self.parameters[index]

    def loaded(self, stretches: list[Stretch]) -> None:
        root = Stretch("root", -1, 1, [t for s in stretches if s.name == "root" for t in s.trained])
        own = [p for s, ps in zip(stretches, self.parameters, strict=True) if s.name == "root" for p in ps]
        self.units = [UnitState(root, self._rules(own))]
        for stretch in stretches:
            for trained in stretch.trained:
                assert isinstance(trained.tensor.node, Leaf)
                trained.tensor.node.component = Component.COMMUNICATION
        self.units += [
            UnitState(stretch, self._rules(parameters))
            for stretch, parameters in zip(stretches, self.parameters, strict=True)
            if stretch.name != "root"
        ]

    def _rules(self, parameters: list[ShardedParameter]) -> fsdp.Unit:
        return fsdp.unit(parameters, self.plan, self.world, self.replicas)

    def updated(self, stretches: list[Stretch]) -> tuple[list[Stretch], dict[int, tuple[Shape, str]]]:
        return stretches, self.shards

    # ---- the moves ----

    def _play(self, unit: UnitState, moves: Iterable[Move], before: UnitState | None, after: UnitState | None) -> None:
        self.graph.tape.module = unit.stretch.name if unit is not self.units[ROOT] else ""
        self.graph.tape.op("fully_shard")
        for action, buffer, of in moves:
            target = {"own": unit, "before": before, "after": after}[of]
            if target is None:
                continue
            if action is Action.ALLOC:
                self._make(target, buffer)
            elif buffer == "gradients":
                self._drop_gradients(target, last=False)
            elif buffer == "last_gradient":
                self._drop_gradients(target, last=True)
            else:
                target.alive.pop(buffer, None)

    def _make(self, unit: UnitState, name: str) -> None:
        buffer = getattr(unit.rules, name)
        tape = self.graph.tape
        stream = int(buffer.stream) if self.graph.cuda else int(Stream.COMPUTE)
        unit.alive[name] = [tape.alloc(size, buffer.component, stream) for size in buffer.num_bytes]
        if self.graph.cuda:
            return
        if name == "reduce_input":
            self._fill_through_copies(unit.rules)
        elif name == "gathered":
            self._use_scratch("_allgather_base_", 0, sum(buffer.num_bytes))
        elif name == "reduced" if unit.rules.reduced.num_bytes else name in ("sharded_gradients", "new_gradients"):
            self._use_scratch("_reduce_scatter_base_", sum(unit.rules.reduce_input.num_bytes), 0)

    def _fill_through_copies(self, rules: fsdp.Unit) -> None:
        """What ``_chunk_cat`` makes on a CPU to lay out the gradients."""
        tape = self.graph.tape
        padded = [tape.alloc(size, rules.padded.component) for size in rules.padded.num_bytes]
        for size in rules.recast.num_bytes:
            tape.alloc(size, rules.recast.component)
        del padded

    def _use_scratch(self, collective: str, input_bytes: int, output_bytes: int) -> None:
        """What gloo holds while a buffer is filled."""
        self.graph.tape.alloc(scratch_bytes(collective, input_bytes, output_bytes), Component.COMMUNICATION)

    @staticmethod
    def _drop_gradients(unit: UnitState, *, last: bool) -> None:
        trained = unit.stretch.trained
        for item in trained[-1:] if last else trained[:-1]:
            assert isinstance(item.tensor.node, Leaf)
            item.tensor.node.accumulated = None

    # ---- hooks ----

    def forward_begin(self) -> None:
        self._play(self.units[ROOT], fsdp.FORWARD_ENTER, None, None)
        self.visited = self.units[ROOT]

    def forward_enter(self, unit: int) -> None:
        state, before = self.units[unit], self.visited
        assert before is not None
        arriving = _block(before, "gathered")
        self._play(state, fsdp.FORWARD_ENTER, before, None)
        self._carry(state, arriving, _block(state, "gathered"), 1)
        self.visited = state

    def _carry(self, state: UnitState, entry: int, body: int, way: int) -> None:
        if state.stretch.run >= 0 and entry >= 0 and body >= 0:
            self.graph.tape.carry(state.stretch.run, entry, body, way)

    def forward_exit(self, unit: int) -> None:
        self._play(self.units[unit], fsdp.FORWARD_EXIT, None, None)

    def forward_end(self) -> None:
        self._play(self.units[ROOT], fsdp.FORWARD_END, self.visited, None)

    def backward_begin(self) -> None:
        root = self.units[ROOT]
        self._play(root, fsdp.BACKWARD_ENTER_ROOT, None, self.units[-1])
        self.reduced = UnitState(root.stretch, root.rules)
        self.reduced.alive["reduce_input"] = [self.graph.tape.placeholder()]

    def backward_enter(self, unit: int) -> None:
        state = self.units[unit]
        after = self.units[unit - 1] if unit > 1 else None
        arriving = _block(state, "gathered")
        self._play(state, fsdp.BACKWARD_ENTER, None, after)
        if after is not None:
            self._carry(state, arriving, _block(after, "gathered"), -1)

    def backward_exit(self, unit: int, *, reaches_input: bool) -> None:
        """A unit whose input has no gradient (adapters behind a frozen embedding) is reduced after the root."""
        if reaches_input:
            self._reduce(self.units[unit])
        else:
            self.late.append(self.units[unit])

    def _reduce(self, state: UnitState) -> None:
        before = self.reduced
        assert before is not None
        arriving = _block(before, "reduce_input")
        self._play(state, fsdp.backward_exit(state.rules, self.accumulating), before, None)
        self._carry(state, arriving, _block(state, "reduce_input"), -1)
        self.reduced = state

    def backward_end(self) -> None:
        for unit in (self.units[ROOT], *self.late):
            self._reduce(unit)
        self.late.clear()
        for unit in self.units:
            self.graph.tape.segment("backward end", unit.stretch.run)
            self._play(unit, fsdp.backward_end(unit.rules, self.accumulating), None, None)
        self.graph.tape.segment("backward end")
        assert self.reduced is not None
        self._play(self.reduced, fsdp.BACKWARD_END, None, None)
        self.accumulating = True

    def gradients(self, stretches: list[Stretch]) -> list[int]:  # noqa: ARG002 - units keep their shards
        return [shard.block for unit in self.units for shard in unit.alive.get("sharded_gradients", ())]

    def zero_grad(self, stretch: Stretch) -> None:
        for unit in self.units:
            if unit.stretch is stretch or (unit is self.units[ROOT] and stretch.name == "root"):
                unit.alive.pop("sharded_gradients", None)
        self.accumulating = False


def _block(unit: UnitState, name: str) -> int:
    held = unit.alive.get(name)
    return held[0].block if held else -1

"""DeepSpeed ZeRO around a program: the items of ``semantics.zero``, made and freed at their moments.

Parameters are views of flat buffers (stages 1 and 2) or gathered on demand (stage 3), so none has memory of its own.
"""

from __future__ import annotations

from memprof.analytic.autograd import Leaf, Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.strategies.base import Strategy
from memprof.analytic.stretch import Stretch, Trained
from memprof.analytic.tape import Storage
from memprof.model.scenario import Zero as Settings
from memprof.model.timeline import Component, Phase
from memprof.semantics.optimizer_program import Shape
from memprof.semantics.precision import Plan
from memprof.semantics.sharding import ShardedParameter
from memprof.semantics.zero import Moment, Stage, memory

PARTITION = "gradient_partition"


class Zero(Strategy):
    """Stage 1 keeps autograd's gradients until the last are there; 2 and 3 take each into a bucket as it is ready.

    Attributes:
        alive: items that are there, by name.
        reduced_before: bytes of what is reduced as a parameter's gradient arrives, by its leaf; None: at the end.
        large: a gradient that does not fit in the bucket, and so stays until it is reduced.
        partition: of this rank's gradients, from the first reduction on, while more come.
    """

    clips = True
    folds = False  # a bucket is full in some layers and not in others

    def __init__(self, graph: Graph, plan: Plan, stage: Stage, world: int, settings: Settings) -> None:
        super().__init__(graph)
        self.plan = plan
        self.stage: Stage = stage
        self.world = world
        self.settings = settings
        self.parameters: list[list[ShardedParameter]] = []
        self.alive: dict[str, Storage] = {}
        self.reduced_before: dict[Leaf | None, int] = {}
        self.large: Storage | None = None
        self.partition: Storage | None = None

    def stretch_begins(self, index: int) -> None:
        if index == len(self.parameters):
            self.parameters.append([])
        self.placed = self.parameters[index]

    def place(self, shape: Shape, dtype: str, trainable: bool) -> Tensor:
        self.placed.append(ShardedParameter(shape, dtype, trainable))
        return self.absent(shape, dtype)

    def loaded(self, stretches: list[Stretch]) -> None:
        self.stretches = stretches
        parameters = [parameter for placed in self.parameters for parameter in placed]
        kind = self.graph.semantics.kind
        self.memory = memory(self.stage, parameters, self.plan, self.world, settings=self.settings, kind=kind)
        self._plan_reductions()
        tape = self.graph.tape
        tape.segment("deepspeed.initialize")
        tape.op("deepspeed.initialize")
        self._play("load")

    def _plan_reductions(self) -> None:
        """Backward reaches parameters in the reverse of their order; stage 1 reduces them in their order after it."""
        trained = [t for stretch in self.stretches for t in stretch.trained]
        if self.stage > 1:
            trained.reverse()
        reductions = self.memory.reduction.before_each(t.tensor.numel for t in trained)
        self.reduced_before = dict(zip([*map(_leaf, trained), None], reductions, strict=True))
        for leaf in filter(None, self.reduced_before):
            leaf.hook = self._arrived

    def _play(self, moment: Moment) -> None:
        for move in self.memory.moves.get(moment, ()):
            if move.frees:
                self.alive.pop(move.name, None)
            elif move.name not in self.alive:
                self._make(move.name)

    def _make(self, name: str) -> None:
        item = self.memory.items.get(name)
        if item is not None:
            self.alive[name] = self.graph.tape.alloc(item.num_bytes, item.component)

    def _reduce(self, num_bytes: int, *, fills: bool) -> None:
        """A passing copy; this rank's part of it goes to the partition, which the first one makes."""
        self.graph.tape.alloc(num_bytes, Component.COMMUNICATION)
        if fills and self.stage < 3 and self.partition is None:
            self.partition = self.graph.tape.alloc(self.memory.items[PARTITION].num_bytes, Component.COMMUNICATION)

    def _arrived(self, leaf: Leaf, gradient: Tensor) -> bool:
        self._play("gradients")
        if self.stage == 1:
            return False
        num_bytes = self.reduced_before[leaf]
        self._reduce(num_bytes, fills=num_bytes > 0)
        self.large = gradient.storage if gradient.numel > self.memory.reduction.bucket_numel else None
        return True

    def _end_reducing(self, num_bytes: int) -> None:
        """The partition becomes the gradients that are kept, or is added to those that are."""
        self._reduce(num_bytes, fills=True)
        self.partition = None
        if self.stage < 3 and PARTITION not in self.alive:
            self._make(PARTITION)
        self._play("reduced")

    # ---- hooks ----

    def forward_begin(self) -> None:
        self.graph.tape.op("deepspeed")
        self._play("forward")

    def backward_next(self, unit: int) -> None:  # noqa: ARG002 - each unit reduces alike
        self.large = None

    def backward_exit(self, unit: int, *, reaches_input: bool) -> None:  # noqa: ARG002 - all reduce as they are ready
        self.large = None

    def backward_end(self) -> None:
        if self.stage > 1:
            self.large = None
            self._end_reducing(self.reduced_before[None])

    def gradients_done(self) -> None:
        tape = self.graph.tape
        if self.stage == 1:
            tape.phase = Phase.BACKWARD
            self._reduce_kept()
        tape.phase = Phase.OPTIMIZER
        tape.segment("deepspeed step")
        tape.op("deepspeed")
        self._play("prepared")

    def _reduce_kept(self) -> None:
        """Stage 1 reduces in parameter order.

        What fits in the bucket leaves its place as it is copied there, so that one copy of all in the bucket takes as
        much as they did before: that is played one by one.
        """
        tape, bucket_numel = self.graph.tape, self.memory.reduction.bucket_numel
        for stretch in self.stretches:
            tape.segment(f"reduce {stretch.name}")
            tape.op("deepspeed")
            for trained in stretch.trained:
                leaf = _leaf(trained)
                self._reduce(0, fills=self.reduced_before[leaf] > 0)
                is_large = trained.tensor.numel > bucket_numel
                if not is_large:
                    leaf.accumulated = None
                self._reduce(self.memory.reduction.num_bytes([trained.tensor.numel]), fills=is_large)
                leaf.accumulated = None
        tape.segment("reduced")
        tape.op("deepspeed")
        self._end_reducing(0)

    def step_begin(self) -> None:
        self.graph.tape.op("deepspeed")
        self._play("step")

    def step_end(self) -> None:
        self._play("stepped")

    def updated(
        self,
        stretches: list[Stretch],  # noqa: ARG002 - the optimizer sees flat partitions instead
    ) -> tuple[list[Stretch], dict[int, tuple[Shape, str]]]:
        dtype = self.plan.master or self.plan.weights
        flats = [Trained("flat", self.absent((numel,), dtype)) for numel in self.memory.optimizer_numels]
        return [Stretch("partition", -1, 1, flats)], {}


def _leaf(trained: Trained) -> Leaf:
    leaf = trained.tensor.node
    assert isinstance(leaf, Leaf)
    return leaf

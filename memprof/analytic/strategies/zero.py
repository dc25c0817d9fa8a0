"""DeepSpeed ZeRO around a program: the items of ``semantics.zero``, each over its life.

Parameters are views of flat buffers (stages 1 and 2) or gathered on demand (stage 3), so none has memory of its own.
"""

from __future__ import annotations

from memprof.analytic.autograd import Leaf, Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.strategies.base import Strategy
from memprof.analytic.stretch import Stretch, Trained
from memprof.analytic.tape import Storage
from memprof.model.timeline import Component
from memprof.semantics.optimizer_program import Shape
from memprof.semantics.precision import Plan
from memprof.semantics.zero import Life, Settings, Stage, memory

_PASSING = ("load", "step")


class Zero(Strategy):
    """Stage 1 keeps autograd's gradients until the optimizer's step; 2 and 3 take each into a bucket as it is ready."""

    def __init__(self, graph: Graph, plan: Plan, stage: Stage, world: int, settings: Settings) -> None:
        super().__init__(graph)
        self.plan = plan
        self.stage: Stage = stage
        self.world = world
        self.settings = settings
        self.frozen: list[list[int]] = []
        self.alive: dict[Life, list[Storage]] = {}

    def stretch_begins(self, index: int) -> None:
        if index == len(self.frozen):
            self.frozen.append([])

    def place(self, shape: Shape, dtype: str, trainable: bool) -> Tensor:
        tensor = self.absent(shape, dtype)
        if not trainable:
            self.frozen[-1].append(tensor.numel)
        return tensor

    def loaded(self, stretches: list[Stretch]) -> None:
        numels = [t.tensor.numel for s in stretches for _ in range(s.count) for t in s.trained]
        frozen = [n for s, held in zip(stretches, self.frozen, strict=False) for _ in range(s.count) for n in held]
        self.memory = memory(self.stage, [numels], self.plan, self.world, frozen=frozen, settings=self.settings)
        for stretch in stretches:
            for trained in stretch.trained:
                assert isinstance(trained.tensor.node, Leaf)
                trained.tensor.node.keeps = self.stage == 1
        tape = self.graph.tape
        tape.segment("deepspeed.initialize")
        tape.op("deepspeed.initialize")
        self._hold("persistent")
        self._hold("load")
        self._let_go("load")

    def _hold(self, life: Life) -> None:
        """Items of a passing life are temporaries, whatever they will be called afterwards."""
        tape = self.graph.tape
        self.alive[life] = [
            tape.alloc(item.num_bytes, Component.TEMPORARIES if life in _PASSING else item.component)
            for item in self.memory.items
            if item.life == life
        ]

    def _let_go(self, life: Life) -> None:
        self.alive.pop(life, None)

    def forward_begin(self) -> None:
        self.graph.tape.op("deepspeed")
        self._hold("forward_backward")

    def backward_begin(self) -> None:
        self.graph.tape.op("deepspeed")
        self._hold("backward")
        if "backward_to_step" not in self.alive:
            self._hold("backward_to_step")

    def backward_end(self) -> None:
        self._let_go("backward")
        self._let_go("forward_backward")

    def step_begin(self) -> None:
        self.graph.tape.op("deepspeed")
        self._hold("step")

    def step_end(self) -> None:
        self._let_go("step")

    def zero_grad(self, stretch: Stretch) -> None:
        super().zero_grad(stretch)
        self._let_go("backward_to_step")

    def updated(
        self,
        stretches: list[Stretch],  # noqa: ARG002 - the optimizer sees flat partitions instead
    ) -> tuple[list[Stretch], dict[int, tuple[Shape, str]]]:
        dtype = self.plan.master or self.plan.weights
        flats = [Trained("flat", self.absent((numel,), dtype)) for numel in self.memory.optimizer_numels]
        return [Stretch("partition", -1, 1, flats)], {}

"""The hooks that every strategy has, and the strategy of one GPU, which does nothing in them."""

from __future__ import annotations

from memprof.analytic.autograd import Leaf, Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.stretch import Stretch
from memprof.model.timeline import Component
from memprof.semantics.optimizer_program import Shape


class Strategy:
    """One GPU: parameters live whole on the device, gradients stay where autograd makes them.

    Hooks are called in segments of their own; ``unit`` is the index of a stretch of layers in playing order.

    Attributes:
        clips: the strategy clips gradients itself.
        folds: identical layers make the same moves, so that one stands for all; else each is played.
    """

    clips = False
    folds = True

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def place(self, shape: Shape, dtype: str, trainable: bool) -> Tensor:  # noqa: ARG002 - strategies shard by it
        """A parameter as the program sees it; allocates what resides on this rank."""
        tensor = self.graph.new(shape, dtype)
        if tensor.storage.block >= 0:
            self.graph.tape.component[tensor.storage.block] = Component.WEIGHTS
        return tensor

    def stretch_begins(self, index: int) -> None:
        """The parameters that are placed next belong to this stretch, in loading order."""

    def loaded(self, stretches: list[Stretch]) -> None:
        """After all parameters are there, the strategy's own buffers are made."""

    def forward_begin(self) -> None: ...

    def forward_enter(self, unit: int) -> None: ...

    def forward_exit(self, unit: int) -> None: ...

    def forward_end(self) -> None: ...

    def backward_begin(self) -> None: ...

    def backward_next(self, unit: int) -> None:
        """Before the segment of a unit's backward begins; 0: of the root's parts."""

    def backward_enter(self, unit: int) -> None: ...

    def backward_exit(self, unit: int, *, reaches_input: bool) -> None:
        """``reaches_input``: the unit's input has a gradient, so that a hook on it can run."""

    def backward_end(self) -> None: ...

    def gradients_done(self) -> None:
        """After the last micro-step's backward; what clips them, if that is the strategy's."""

    def step_begin(self) -> None: ...

    def step_end(self) -> None: ...

    def second_step(self) -> None:
        """What happens once, before the second step's forward."""

    def updated(self, stretches: list[Stretch]) -> tuple[list[Stretch], dict[int, tuple[Shape, str]]]:
        """What the optimizer updates: stretches, and the (shape, dtype) of parameters that it sees otherwise."""
        return stretches, {}

    def gradients(self, stretches: list[Stretch]) -> list[int]:
        """Blocks of the gradients that stay until they are cleared; each step gives them in the same order."""
        leaves = [trained.tensor.node for stretch in stretches for trained in stretch.trained]
        kept = [leaf.accumulated for leaf in leaves if isinstance(leaf, Leaf)]
        return [gradient.storage.block for gradient in kept if gradient is not None]

    def zero_grad(self, stretch: Stretch) -> None:
        """Lets go of a stretch's gradients, in parameter order."""
        for trained in stretch.trained:
            assert isinstance(trained.tensor.node, Leaf)
            trained.tensor.node.accumulated = None

    def absent(self, shape: Shape, dtype: str) -> Tensor:
        """A parameter whose memory is managed by the strategy, not by who refers to it."""
        numel = 1
        for size in shape:
            numel *= size
        return Tensor(shape, numel, dtype, self.graph.tape.alloc(0))

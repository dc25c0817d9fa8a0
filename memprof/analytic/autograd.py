"""Symbolic tensors and the backward pass, with the memory behaviour of PyTorch's autograd engine.

Source: torch/csrc/autograd/engine.cpp (``call_function``: outputs are computed and validated, then the incoming
gradient dies, then saved variables are released), input_buffer.cpp (``accumulate``: a second gradient is added in place
where nothing else holds the first) and functions/accumulate_grad.h (the first gradient of a parameter is taken over,
later ones are added in place).
"""

from __future__ import annotations

from collections.abc import Callable

from memprof.analytic.tape import Storage, Tape
from memprof.model.dtypes import ITEM_BYTES
from memprof.model.timeline import Component

Shape = tuple[int, ...]


class Tensor:
    """Shape, dtype, storage, and the node whose output it is.

    ``permuted`` marks an attention layout whose memory order is not that of its shape, so that a reshape must copy.
    ``is_view`` marks a view of another tensor, which holds its base. ``expanded`` marks one that shows the same
    elements many times, so that its storage is smaller than ``num_bytes``.
    """

    __slots__ = ("shape", "numel", "dtype", "storage", "node", "permuted", "is_view", "expanded")

    def __init__(self, shape: Shape, numel: int, dtype: str, storage: Storage, node: Node | None = None) -> None:
        self.shape = shape
        self.numel = numel
        self.dtype = dtype
        self.storage = storage
        self.node = node
        self.permuted = False
        self.is_view = False
        self.expanded = False

    @property
    def num_bytes(self) -> int:
        return self.numel * ITEM_BYTES[self.dtype]

    @property
    def requires_grad(self) -> bool:
        return self.node is not None


Backward = Callable[[Tensor], "Tensor | None | tuple[Tensor | None, ...]"]


class Node:
    """A backward function with the edges it feeds; ``grad`` is its input buffer.

    ``backward`` is a closure over exactly what autograd saved; ``saves`` says whether that is anything.
    """

    __slots__ = ("name", "module", "backward", "edges", "grad", "flops", "saves")

    def __init__(self, name: str, module: str, edges: tuple[Node | None, ...], flops: int) -> None:
        self.name = name
        self.module = module
        self.edges = edges
        self.backward: Backward | None = None
        self.grad: Tensor | None = None
        self.flops = flops
        self.saves = True

    def receive(self, tape: Tape, grad: Tensor) -> None:
        """Adds to the input buffer: in place unless what is there is a view or another slot still holds it.

        Source: torch/csrc/autograd/input_buffer.cpp, ``can_accumulate_inplace``.
        """
        held = self.grad
        if held is None:
            grad.storage.uses += 1
            self.grad = grad
        elif held.is_view or held.storage.uses > 1:
            total = Tensor(held.shape, held.numel, held.dtype, tape.alloc(held.num_bytes))
            held.storage.uses -= 1
            total.storage.uses = 1
            self.grad = total


class Leaf(Node):
    """A parameter's gradient accumulator. ``pending`` is how many uses in the current graph have not arrived yet.

    ``component`` is what the gradient counts as; ``hook`` is called with the first one, and says whether it takes that
    away.
    """

    __slots__ = ("pending", "accumulated", "component", "hook")

    def __init__(self, name: str, module: str) -> None:
        super().__init__(name, module, (), 0)
        self.pending = 0
        self.accumulated: Tensor | None = None
        self.component = Component.GRADIENTS
        self.hook: Callable[[Leaf, Tensor], bool] | None = None

    def receive(self, tape: Tape, grad: Tensor) -> None:
        super().receive(tape, grad)
        self.pending -= 1
        if self.pending > 0:
            return
        total, self.grad = self.grad, None
        if total is None:
            return
        if self.accumulated is not None or (self.hook is not None and self.hook(self, total)):
            total.storage.uses -= 1
            return
        if total.storage.uses > 1:
            total.storage.uses -= 1
            total = Tensor(total.shape, total.numel, total.dtype, tape.alloc(total.num_bytes))
            total.storage.uses = 1
        self.accumulated = total
        if total.storage.block >= 0:
            tape.component[total.storage.block] = self.component


class InputLeaf(Leaf):
    """An activation that was made to require a gradient.

    Its accumulator holds it, so that it and its gradient live as long as the graph: until the loss dies, after the
    backward pass.
    """

    __slots__ = ("storage",)

    def __init__(self, tensor: Tensor, module: str) -> None:
        super().__init__("inputs", module)
        self.storage = tensor.storage
        self.component = Component.TEMPORARIES

"""The symbolic graph: what ops share - allocation, what autograd saves, checkpointing, the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from memprof.analytic.autograd import Backward, Leaf, Node, Shape, Tensor
from memprof.analytic.tape import Storage, Tape
from memprof.model.dtypes import ITEM_BYTES
from memprof.model.timeline import Component, Phase
from memprof.semantics.autocast import autocast_policy
from memprof.semantics.device import Semantics
from memprof.semantics.workspace import cublas_workspace_bytes, cublaslt_call_bytes, cublaslt_workspace_bytes

_ACTIVATIONS, _WEIGHTS, _BACKWARD = Component.ACTIVATIONS, Component.WEIGHTS, Phase.BACKWARD
RNG_STATE_BYTES = 5056
"""``torch.get_rng_state()``, torch 2.13."""
_DISCARDED = Node("discarded", "", (), 0)


class Own(Node):
    """A node that runs a sequence of its own: it decides when its input and what it saved are released."""

    __slots__ = ()

    def run(self, graph: Graph) -> None:
        """Takes ``self.grad``, feeds ``self.edges``; every subclass has its own."""
        raise NotImplementedError


class Checkpoint(Own):
    """A checkpointed layer in the backward pass: recomputes, then runs the layer's own backward.

    Source: torch/utils/checkpoint.py, ``use_reentrant=False``: inputs are kept until the layer's last node is done; the
    first node that needs something saved starts the recomputation, so those after it have run before. It stops when as
    many tensors are saved as the forward pass saved. It runs under the forward's autocast, whose cache of weight copies
    it empties when it ends. The random-number state it keeps is in host memory.
    """

    __slots__ = ("layer", "entry", "num_saves", "autocast", "rng_state")

    def __init__(self, graph: Graph, layer: Callable[[Tensor], Tensor], entry: Tensor) -> None:
        super().__init__("checkpoint", graph.tape.module, (entry.node,), 0)
        self.layer = layer
        self.entry = entry
        self.num_saves = 0
        self.autocast = graph.autocast
        self.rng_state = graph.host_tensor(RNG_STATE_BYTES)

    def run(self, graph: Graph) -> None:
        tape = graph.tape
        entry = Leaf("checkpoint input", self.module)
        entry.pending = 1
        x = Tensor(self.entry.shape, self.entry.numel, self.entry.dtype, self.entry.storage, entry)
        outer, graph.nodes = graph.nodes, []
        casts, graph.weight_casts = graph.weight_casts, {}
        kept, graph.kept = graph.kept, []
        start = tape.mark()
        forked = graph.host_tensor(RNG_STATE_BYTES)
        graph.stop_at = graph.num_saves + self.num_saves
        graph.autocast, before = self.autocast, graph.autocast
        out = self.layer(x)
        graph.autocast = before
        graph.stop_at = -1
        tape.paused = False
        graph.weight_casts = casts
        graph.kept = kept
        del forked
        inner, graph.nodes = graph.nodes, outer
        grad, self.grad = self.grad, None
        if grad is not None and out.node is not None:
            out.node.grad = grad
        del out, x, grad
        entry.pending = 1 << 30
        middle = tape.mark()
        last = len(inner)
        while last and not inner[last - 1].saves:
            last -= 1
        graph.backward(inner[last:])
        del inner[last:]
        tape.move_back(start, middle)
        graph.backward(inner)
        handed, entry.grad = entry.grad, None
        self.release()
        if handed is not None and self.edges[0] is not None:
            handed.storage.uses -= 1
            self.edges[0].receive(tape, handed)

    def release(self) -> None:
        del self.entry, self.layer, self.rng_state


class Scripted(Own):
    """A node whose kernels let go of the incoming gradient before they end; it runs its own sequence."""

    __slots__ = ("play",)

    play: Callable[[list[Tensor]], list[Tensor | None]]

    def run(self, graph: Graph) -> None:
        graph.tape.op(self.name, self.flops)
        held, self.grad = self.grad, None
        assert held is not None
        held.storage.uses -= 1
        box = [held]
        del held
        grads = self.play(box)
        del self.play
        for edge in reversed(self.edges):
            grad = grads.pop()
            if edge is not None and grad is not None:
                edge.receive(graph.tape, grad)
            grad = None


Kept = tuple[str, str, Shape, str, int]
"""A storage that autograd saved: by which op, in which module, as a tensor of which shape and dtype, and its block."""


class Graph:
    """One program in play: a tape, the device's semantics, and the state of grad mode, autocast and checkpointing.

    Attributes:
        autocast: the lower-precision dtype while autocast is on, else None.
        training: whether dropout is active.
        nodes: the autograd graph in creation order; the backward pass takes it from its end.
        unknown: what kernels are known to allocate and the rules leave out, in words.
        kept: what nodes hold besides what autograd saves; it lives as long as the graph.
        saved: each storage that autograd saved in the forward pass, first time only, parameters left out.
    """

    def __init__(self, tape: Tape, semantics: Semantics) -> None:
        self.tape = tape
        self.semantics = semantics
        self.cuda = semantics.kind == "cuda"
        self.autocast: str | None = None
        self.training = True
        self.grad_enabled = True
        self.nodes: list[Node] = []
        self.weight_casts: dict[int, Tensor] = {}
        self.num_saves = 0
        self._saves_before = 0
        self.stop_at = -1
        self.discarding = False
        self.unknown: set[str] = set()
        self.saved: list[Kept] = []
        self._alloc = tape.alloc
        self._nothing = Tensor((), 0, "float32", tape.alloc(0))
        self.kept: list[Storage] = []
        self._seen: set[int] = set()
        self._workspaces: set[tuple[str, bool]] = set()
        self._recomputes_lt = False
        self._lt_scratch = (size,) if (size := cublaslt_call_bytes(semantics)) else ()

    # ---- tensors ----

    def new(self, shape: Shape, dtype: str, numel: int = -1) -> Tensor:
        """Allocates a tensor; ``numel`` spares counting again."""
        if numel < 0:
            numel = prod(shape)
        return Tensor(shape, numel, dtype, self._alloc(numel * ITEM_BYTES[dtype]))

    def like(self, tensor: Tensor, dtype: str | None = None) -> Tensor:
        """A tensor of the same shape and layout, as ``empty_like`` makes it."""
        if dtype is None:
            dtype = tensor.dtype
        numel = tensor.numel
        out = Tensor(tensor.shape, numel, dtype, self._alloc(numel * ITEM_BYTES[dtype]))
        if tensor.permuted:
            out.permuted = True
        return out

    def view(self, tensor: Tensor, shape: Shape, permuted: bool = False) -> Tensor:
        """Another shape over the same storage; gradients pass through it unchanged."""
        out = Tensor(shape, tensor.numel, tensor.dtype, tensor.storage, tensor.node)
        out.permuted = permuted
        out.is_view = True
        return out

    def host_tensor(self, num_bytes: int) -> Storage:
        """A tensor in host memory: counts where the CPU is the device."""
        return self.tape.alloc(0 if self.cuda else num_bytes)

    def scratch(self, *sizes: int) -> None:
        """Bytes that an op's kernel asks for and gives back before it ends, all alive together."""
        if sizes:
            blocks = [self.tape.alloc(size) for size in sizes]
            del blocks

    def workspace(self, *, through_lt: bool = False) -> None:
        """What a product takes once its output is there: the buffer of cuBLAS, and where it has a bias of cuBLASLt.

        Each library has one for the forward thread and one for autograd's, kept for life. Where layers with biases are
        recomputed, autograd's thread gets that of cuBLASLt with its first product, a little early.
        """
        if not self.cuda:
            return
        self._recomputes_lt |= through_lt and self.discarding
        in_backward = self.tape.phase is _BACKWARD
        self._workspace("cublas", in_backward, cublas_workspace_bytes)
        if through_lt or (in_backward and self._recomputes_lt):
            self._workspace("cublaslt", in_backward, cublaslt_workspace_bytes)
        if through_lt:
            self.scratch(*self._lt_scratch)

    def _workspace(self, library: str, in_backward: bool, num_bytes: Callable[[Semantics], int]) -> None:
        key = library, in_backward
        if key not in self._workspaces:
            self._workspaces.add(key)
            if size := num_bytes(self.semantics):
                self.tape.once(size, Component.WORKSPACE)

    # ---- autograd ----

    def records(self, *inputs: Tensor) -> bool:
        """Whether an op on these inputs becomes a node of the graph."""
        if self.grad_enabled:
            for tensor in inputs:
                if tensor.node is not None:
                    return True
        return False

    @property
    def recomputing(self) -> bool:
        """Whether a checkpoint recomputes.

        What is saved then goes as soon as it is unpacked and used, before gradients are summed and cast to what the
        engine expects. Source: torch/utils/checkpoint.py, ``unpack_hook``.
        """
        return self.stop_at >= 0

    def save(self, tensor: Tensor) -> Tensor:
        """What autograd keeps for the backward pass.

        A checkpointed forward keeps nothing: the returned tensor is then empty, and its node will never run.
        """
        self.num_saves += 1
        if self.discarding:
            return self._nothing
        self._note(tensor)
        if self.num_saves == self.stop_at:
            self.tape.paused = True
        return tensor

    def keep(self, tensor: Tensor) -> None:
        """What a Python ``autograd.Function`` sets as a plain attribute of its node.

        No checkpoint discards it, and it lives as long as the graph: until the loss dies, after the backward pass.
        """
        self.kept.append(tensor.storage)
        self._note(tensor)

    def _note(self, tensor: Tensor) -> None:
        block, tape = tensor.storage.block, self.tape
        if block < 0 or block in self._seen:
            return
        self._seen.add(block)
        component = tape.component.get(block)
        if component is None:
            tape.component[block] = _ACTIVATIONS
        if component is not _WEIGHTS and self.stop_at < 0:
            self.saved.append((tape.last_op, tape.module, tensor.shape, tensor.dtype, block))

    def record(
        self, name: str, out: Tensor, edges: tuple[Node | None, ...], backward: Backward, flops: int = 0
    ) -> Tensor:
        """Makes ``out`` the output of a node. ``backward`` returns one gradient an edge (None where there is none)."""
        if self.discarding:
            out.node = _DISCARDED
            return out
        node = Node(name, self.tape.module, edges, flops)
        node.backward = backward
        node.saves = self.num_saves != self._saves_before
        self._saves_before = self.num_saves
        for edge in edges:
            if type(edge) is Leaf:
                edge.pending += 1
        self.nodes.append(node)
        out.node = node
        return out

    def backward(self, nodes: list[Node]) -> None:
        """Runs nodes latest first, as the engine's queue does, and empties the list."""
        tape = self.tape
        while nodes:
            node = nodes.pop()
            if node.grad is None:
                continue
            tape.module = node.module
            if isinstance(node, Own):
                node.run(self)
                continue
            tape.op(node.name, node.flops)
            grads = self._call(node)
            for edge in node.edges:
                grad = grads.pop()
                if edge is not None and grad is not None:
                    edge.receive(tape, grad)
                grad = None

    @staticmethod
    def _call(node: Node) -> list[Tensor | None]:
        """The node's gradients, last edge first; on return its input and what it saved are released."""
        grad, node.grad = node.grad, None
        assert grad is not None
        assert node.backward is not None
        grad.storage.uses -= 1
        out = node.backward(grad)
        del grad
        node.backward = None
        if isinstance(out, tuple):
            return list(reversed(out))
        return [out]

    # ---- checkpointing ----

    def checkpoint(self, layer: Callable[[Tensor], Tensor], x: Tensor, *others: Tensor) -> Tensor:
        """``torch.utils.checkpoint`` around ``layer``: keeps its positional tensors, discards what the layer saves."""
        if not self.grad_enabled or not self.training:
            return layer(x)
        node = Checkpoint(self, layer, x)
        before = self.num_saves
        self.discarding = True
        out = layer(x)
        self.discarding = False
        node.num_saves = self.num_saves - before
        for kept in (*others, x):
            self.save(kept)
        self.nodes.append(node)
        out.node = node
        return out

    # ---- autocast ----

    def runs_in_float32(self, op: str) -> bool:
        """Whether autocast is on and has ``op`` on its float32 list."""
        return self.autocast is not None and autocast_policy(self.semantics, op) == "fp32"

    def enter_autocast(self, dtype: str | None) -> None:
        self.autocast = dtype

    def exit_autocast(self) -> None:
        """Copies that only the cache still holds die here. Source: ATen/autocast_mode.cpp, ``clear_cache``."""
        self.autocast = None
        self.weight_casts.clear()

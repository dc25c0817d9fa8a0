"""Views, copies, slices and joins."""

from __future__ import annotations

from memprof.analytic.autograd import Node, Tensor
from memprof.analytic.graph import Graph, Own
from memprof.analytic.tape import Tape
from memprof.model.dtypes import ITEM_BYTES


def contiguous(g: Graph, x: Tensor) -> Tensor:
    """``x.contiguous()``: a copy where the memory order is not that of the shape."""
    if not x.permuted:
        return x
    g.tape.op("clone", 0, x.num_bytes)
    out = g.new(x.shape, x.dtype, x.numel)
    if g.records(x):
        g.record("Clone", out, (x.node,), lambda grad: grad)
    return out


def heads_inside(g: Graph, x: Tensor) -> Tensor:
    """``x.transpose(1, 2).contiguous()`` of a (B, H, S, D) tensor, still named by that shape.

    A copy unless it already lies in (B, S, H, D).
    """
    if x.permuted or x.shape[1] == 1 or x.shape[2] == 1:
        return x
    g.tape.op("clone", 0, x.num_bytes)
    out = g.like(x)
    out.permuted = True
    if g.records(x):
        g.record("Clone", out, (x.node,), lambda grad: grad)
    return out


def split_heads(g: Graph, x: Tensor, heads: int, width: int) -> Tensor:
    """``x.view(B, S, heads, width).transpose(1, 2)``: a view; backward copies a gradient that lies in (B, heads, S)."""
    batch, length = x.shape[0], x.shape[1]
    layered = heads > 1 and length > 1
    out = g.view(x, (batch, heads, length, width), permuted=layered or (heads > 1 and x.permuted))
    if g.records(x):
        flat, node = x.shape, x.node

        def backward(grad: Tensor) -> Tensor:
            if layered and not grad.permuted:
                return g.new(flat, grad.dtype, grad.numel)
            return g.view(grad, flat)

        g.record("View", out, (node,), backward)
    return out


def merge_heads(g: Graph, x: Tensor) -> Tensor:
    """``x.transpose(1, 2).reshape(B, S, heads * width)``: a view where ``x`` lies in (B, S, heads), else a copy."""
    batch, heads, length, width = x.shape
    flat = (batch, length, heads * width)
    layered = heads > 1 and length > 1
    if x.permuted or not layered:
        out = g.view(x, flat)
    else:
        g.tape.op("clone", 0, x.num_bytes)
        out = g.new(flat, x.dtype, x.numel)
    if g.records(x):
        shape = x.shape
        g.record("View", out, (x.node,), lambda grad: g.view(grad, shape, permuted=layered))
    return out


def rotate_half(g: Graph, x: Tensor) -> Tensor:
    """``cat((-x[..., n:], x[..., :n]))``: two slices, a negation, and a join that comes out contiguous.

    The backward of each slice fills a zero tensor of the full shape.
    Source: FunctionsManual.cpp ``slice_backward_wrapper``, ``cat``.
    """
    half_shape, half = (*x.shape[:-1], x.shape[-1] // 2), x.numel // 2
    node, shape, numel = x.node, x.shape, x.numel
    records = g.records(x)

    def slice_of() -> Tensor:
        piece = Tensor(half_shape, half, x.dtype, x.storage, None)
        if records:
            g.record("Slice", piece, (node,), lambda grad: g.new(shape, grad.dtype, numel))
        return piece

    first = slice_of()
    second = slice_of()
    g.tape.op("neg", 0, x.num_bytes // 2)
    negated = g.new(half_shape, x.dtype, half)
    if records:
        g.record("Neg", negated, (second.node,), lambda grad: g.new(half_shape, grad.dtype, half))
    g.tape.op("cat", 0, x.num_bytes)
    out = g.new(shape, x.dtype, numel)
    if records:

        def backward(grad: Tensor) -> tuple[Tensor, Tensor]:
            return g.view(grad, half_shape), g.view(grad, half_shape)

        g.record("Cat", out, (negated.node, first.node), backward)
    return out


class Join(Own):
    """The backward of a split: one new tensor out of the gradients of its parts."""

    __slots__ = ("parts", "shape")

    def __init__(self, graph: Graph, x: Tensor, count: int) -> None:
        super().__init__("Split", graph.tape.module, (x.node,), 0)
        self.parts = [Part(self) for _ in range(count)]
        self.shape = x.shape

    def run(self, graph: Graph) -> None:
        graph.tape.op(self.name)
        self.grad = None
        grads = []
        for part in self.parts:
            grads.append(part.grad)
            part.grad = None
        self.parts.clear()
        dtype = next(grad.dtype for grad in grads if grad is not None)
        joined = graph.new(self.shape, dtype)
        for grad in grads:
            if grad is not None:
                grad.storage.uses -= 1
        del grad
        grads.reverse()
        grads.clear()  # drops the last first: so the first part's gradient goes first, as C++'s vector has it
        assert self.edges[0] is not None
        self.edges[0].receive(graph.tape, joined)


class Part(Node):
    """One output of a split."""

    __slots__ = ("join",)

    def __init__(self, join: Join) -> None:
        super().__init__("Part", "", (), 0)
        self.join = join

    def receive(self, tape: Tape, grad: Tensor) -> None:
        super().receive(tape, grad)
        self.join.grad = self.grad


def split(g: Graph, x: Tensor, parts: int) -> list[Tensor]:
    """``x.split(...)`` over the last dimension: views; backward joins the gradients of all parts into a new tensor.

    Source: FunctionsManual.cpp, ``split_backward``.
    """
    shape, numel = (*x.shape[:-1], x.shape[-1] // parts), x.numel // parts
    pieces = [Tensor(shape, numel, x.dtype, x.storage) for _ in range(parts)]
    for piece in pieces:
        piece.permuted = True
    if g.records(x):
        if g.discarding:
            for piece in pieces:
                piece.node = x.node
            return pieces
        node = Join(g, x, parts)
        g.nodes.append(node)
        for piece, part in zip(pieces, node.parts, strict=True):
            piece.node = part
    return pieces


def index_select(g: Graph, x: Tensor, indices: Tensor) -> Tensor:
    """``x.reshape(-1, width).index_select(0, indices)``: a copy; backward adds its rows into zeros of all rows.

    Source: FunctionsManual.cpp, ``index_select_backward``.
    """
    width = x.shape[-1]
    g.tape.op("index_select")
    out = g.new((indices.numel, width), x.dtype)
    if g.records(x):
        saved, shape, numel = g.save(indices), x.shape, x.numel

        def backward(grad: Tensor) -> Tensor:
            assert saved
            return g.new(shape, grad.dtype, numel)

        g.record("IndexSelect", out, (x.node,), backward)
    return out


def row_chunks(g: Graph, x: Tensor, sizes: list[int]) -> list[Tensor]:
    """``x.tensor_split(...)`` of a matrix's rows: views; the backward of each fills a zero tensor of the full shape.

    Source: ATen/native/TensorShape.cpp ``tensor_split``; FunctionsManual.cpp ``slice_backward_wrapper``.
    """
    width, shape, numel, node = x.shape[-1], x.shape, x.numel, x.node
    pieces = [Tensor((size, width), size * width, x.dtype, x.storage) for size in sizes]
    if g.records(x):
        for piece in pieces:
            g.record("Slice", piece, (node,), lambda grad: g.new(shape, grad.dtype, numel))
    return pieces


def repeat_kv(g: Graph, x: Tensor, times: int) -> Tensor:
    """``x[:, :, None].expand(...).reshape(...)``: a contiguous copy for each query head; backward sums the copies.

    A single key head is repeated without a copy: the heads of the result all show the same storage.
    """
    if times == 1:
        return x
    batch, heads, length, width = x.shape
    shape, numel = (batch, heads * times, length, width), x.numel * times
    if heads == 1:
        out = Tensor(shape, numel, x.dtype, x.storage)
        out.is_view = out.expanded = True
    else:
        g.tape.op("clone", 0, numel * ITEM_BYTES[x.dtype])
        out = g.new(shape, x.dtype, numel)
    if g.records(x):
        before, count = x.shape, x.numel
        g.record("Expand", out, (x.node,), lambda grad: g.new(before, grad.dtype, count))
    return out

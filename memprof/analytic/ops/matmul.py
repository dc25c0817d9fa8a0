"""Matrix products: linear layers, GPT-2's transposed linear, and the batched products of eager attention."""

from __future__ import annotations

from memprof.analytic.autograd import Leaf, Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.ops.pointwise import cast
from memprof.analytic.ops.reduce import reduced


def lower(g: Graph, x: Tensor) -> Tensor:
    """Autocast's cast of one operand to the lower precision; a trainable float32 leaf's copy is kept in the cache.

    Operands are cast last to first: gcc evaluates the wrapper's arguments from the right.

    Source: ATen/autocast_mode.cpp, ``cached_cast``: only float32 leaves that require grad are cached.
    """
    dtype = g.autocast
    if dtype is None or x.dtype == dtype:
        return x
    if not is_trainable_leaf(x):
        return cast(g, x, dtype)
    held = g.weight_casts.get(id(x))
    if held is None:
        held = g.weight_casts[id(x)] = cast(g, x, dtype)
    return held


def is_trainable_leaf(x: Tensor) -> bool:
    return x.dtype == "float32" and type(x.node) is Leaf


def linear(g: Graph, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, transposed: bool = False) -> Tensor:
    """``x @ weight.T + bias`` over the last dimension, weight (out, in); ``transposed``: GPT-2's Conv1D, (in, out).

    Saves ``x`` for the weight's gradient and ``weight`` for the input's. Gradients are computed in the alphabetical
    order of the op's arguments: ``mm`` gives the weight's first, ``addmm`` the input's; the bias's sum comes last.
    Source: derivatives.yaml mm / addmm; ATen/native/Linear.cpp; tools/autograd/gen_autograd_functions.py.
    """
    if g.autocast is not None:  # the operands of ``linear(x, weight, bias)`` or ``addmm(bias, x, weight)``, last first
        if bias is not None and not transposed:
            bias = lower(g, bias)
        weight = lower(g, weight)
        x = lower(g, x)
        if bias is not None and transposed:
            bias = lower(g, bias)
    width = weight.shape[1] if transposed else weight.shape[0]
    rows = x.numel // x.shape[-1]
    shape, numel = (*x.shape[:-1], width), rows * width
    flops = 2 * x.numel * width
    g.tape.op("addmm" if bias is not None else "mm", flops, x.num_bytes + weight.num_bytes)
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if not g.records(*tensors):
        out = g.new(shape, x.dtype, numel)
        g.workspace(through_lt=bias is not None)
        return out
    saved_weight = g.save(weight) if x.node is not None else None
    saved_x = g.save(x) if weight.node is not None else None
    has_bias = bias is not None
    # Operands are given back in alphabetical order, mm's mat2 and self, addmm's mat1 and mat2; a closure's, last first.
    saved_a, saved_b = (saved_weight, saved_x) if has_bias else (saved_x, saved_weight)
    out = g.new(shape, x.dtype, numel)
    g.workspace(through_lt=has_bias)
    x_shape, x_numel, weight_shape = x.shape, x.numel, weight.shape
    wants_x, wants_weight = saved_weight is not None, saved_x is not None
    del saved_weight, saved_x
    bias_shape = bias.shape if bias is not None and bias.node is not None else None
    recomputed = g.recomputing

    def backward(grad: Tensor) -> tuple[Tensor | None, ...]:
        nonlocal saved_a, saved_b
        grad_weight = None
        if wants_weight and not has_bias:
            grad_weight = g.new(weight_shape, grad.dtype)
            grad_weight.is_view = True
            g.workspace()
        grad_x = g.new(x_shape, grad.dtype, x_numel) if wants_x else None
        if grad_x is not None:
            grad_x.is_view = len(x_shape) > 2
            g.workspace()
        if not has_bias:
            return grad_x, grad_weight
        if wants_weight:
            grad_weight = g.new(weight_shape, grad.dtype)
            grad_weight.is_view = not transposed
            g.workspace()
        if recomputed:
            saved_a = saved_b = None
        grad_bias = None
        if bias_shape is not None:
            grad_bias = reduced(g, bias_shape, grad.dtype, grad.numel, over_last=False)
        return grad_x, grad_weight, grad_bias

    edges = (x.node, weight.node) if bias is None else (x.node, weight.node, bias.node)
    return g.record("Mm", out, edges, backward, 2 * flops)


def matmul(g: Graph, a: Tensor, b: Tensor, shape: tuple[int, ...], *, transposed: bool = False) -> Tensor:
    """A batched product of (B, H, M, K) and (B, H, K, N), giving ``shape``; ``transposed``: ``b`` is (B, H, N, K).

    The gradient of a transposed one is its transpose too, in which heads and rows can be swapped without a copy.

    Operands whose batch and head dimensions cannot be merged in place are copied first, gradients too; both operands
    are saved. Source: ATen/native/LinearAlgebra.cpp ``_matmul_impl``; derivatives.yaml bmm.
    """
    if g.autocast is not None:
        b = lower(g, b)
        a = lower(g, a)
    a, b = merge_batch(g, a), merge_batch(g, b)
    flops = 2 * a.numel * shape[-1]
    g.tape.op("bmm", flops, a.num_bytes + b.num_bytes)
    records = g.records(a, b)
    saved_b = g.save(b) if records and a.node is not None else None
    saved_a = g.save(a) if records and b.node is not None else None
    out = g.new(shape, a.dtype)
    g.workspace()
    if not records:
        return out

    def backward(grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        grad_b = g.new(b_shape, grad.dtype, b_numel) if saved_a is not None else None
        if grad_b is not None:
            grad_b.permuted = transposed
        grad_a = g.new(a_shape, grad.dtype, a_numel) if saved_b is not None else None
        return grad_a, grad_b

    a_shape, a_numel, b_shape, b_numel = a.shape, a.numel, b.shape, b.numel
    g.record("Bmm", out, (a.node, b.node), backward, 2 * flops)
    return g.record("UnsafeView", g.view(out, shape), (out.node,), lambda grad: merge_batch(g, grad))


def merge_batch(g: Graph, x: Tensor) -> Tensor:
    """``x.reshape(B * H, M, N)``: a copy where batch and heads are not one stretch of memory."""
    if x.shape[0] == 1 or not (x.permuted or x.expanded):
        return x
    g.tape.op("clone", 0, x.num_bytes)
    out = g.new(x.shape, x.dtype, x.numel)
    if g.records(x):
        shape = x.shape
        g.record("Reshape", out, (x.node,), lambda grad: g.view(grad, shape, grad.permuted))
    return out

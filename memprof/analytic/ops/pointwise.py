"""Pointwise ops and casts. Outputs keep the memory order of the first full-size operand (TensorIterator)."""

from __future__ import annotations

from memprof.analytic.autograd import Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.ops.reduce import sum_to

_RANK = {"bool": 0, "int64": 1, "bfloat16": 2, "float16": 2, "float32": 3, "float64": 4}


def promote(a: Tensor, b: Tensor) -> str:
    """The result dtype of a binary op on two dimensioned tensors."""
    if a.dtype == b.dtype or _RANK[a.dtype] > _RANK[b.dtype]:
        return a.dtype
    return b.dtype if _RANK[b.dtype] > _RANK[a.dtype] else "float32"


def cast(g: Graph, x: Tensor, dtype: str) -> Tensor:
    """``x.to(dtype)``: nothing where it has that dtype already; backward casts the gradient back."""
    if x.dtype == dtype:
        return x
    g.tape.op("_to_copy", 0, x.num_bytes)
    records = g.records(x)
    out = g.like(x, dtype)
    if records:
        origin = x.dtype
        g.record("ToCopy", out, (x.node,), lambda grad: g.like(grad, origin))
    return out


def clone(g: Graph, x: Tensor) -> Tensor:
    """``x.clone()``: the gradient passes through unchanged."""
    g.tape.op("clone", 0, x.num_bytes)
    out = g.like(x)
    if g.records(x):
        g.record("Clone", out, (x.node,), lambda grad: grad)
    return out


def _full(g: Graph, a: Tensor, b: Tensor, dtype: str) -> Tensor:
    """The output of a binary op: the broadcast shape, in the layout of the first operand that has it.

    The CPU copies an operand of another dtype first, CUDA's kernels convert as they read.
    Source: ATen/TensorIterator.cpp, ``compute_types``
    (``cast_common_dtype_to_outputs`` and ``promote_inputs_to_common_dtype`` on the CPU).
    """
    if not g.cuda and a.dtype != b.dtype:
        converted = g.like(a if a.dtype != dtype else b, dtype)
        out = _output(g, a, b, dtype)
        del converted
        return out
    return _output(g, a, b, dtype)


def _output(g: Graph, a: Tensor, b: Tensor, dtype: str) -> Tensor:
    if len(a.shape) != len(b.shape):
        return g.like(a if len(a.shape) > len(b.shape) else b, dtype)
    big = a if a.numel >= b.numel else b
    if a.numel != b.numel:
        shape = tuple(max(i, j) for i, j in zip(a.shape, b.shape, strict=True))
        out = g.new(shape, dtype)
        out.permuted = big.permuted
        return out
    return g.like(big, dtype)


def _back_to(g: Graph, grad: Tensor, numel: int, shape: tuple[int, ...], dtype: str) -> Tensor:
    """What ``validate_outputs`` does to a gradient: sum over broadcast dimensions, then cast."""
    if grad.numel != numel:
        grad = sum_to(g, grad, shape, numel)
    return cast_grad(g, grad, dtype)


def cast_grad(g: Graph, grad: Tensor, dtype: str) -> Tensor:
    """A gradient in its input's dtype."""
    return grad if grad.dtype == dtype else g.like(grad, dtype)


def add(g: Graph, a: Tensor, b: Tensor) -> Tensor:
    """``a + b``: saves nothing; both inputs get the same gradient. Source: derivatives.yaml add.Tensor."""
    g.tape.op("add", 0, a.num_bytes + b.num_bytes)
    records = g.records(a, b)
    out = _full(g, a, b, promote(a, b))
    if records:
        na, sa, da = a.numel, a.shape, a.dtype
        nb, sb, db = b.numel, b.shape, b.dtype
        wants_a, wants_b = a.node is not None, b.node is not None

        def backward(grad: Tensor) -> tuple[Tensor | None, ...]:
            return (
                _back_to(g, grad, na, sa, da) if wants_a else None,
                _back_to(g, grad, nb, sb, db) if wants_b else None,
            )

        g.record("Add", out, (a.node, b.node), backward)
    return out


def mul(g: Graph, a: Tensor, b: Tensor) -> Tensor:
    """``a * b``: saves each factor that the other's gradient needs; that of ``b`` (``other``) is computed first.

    Source: derivatives.yaml mul.Tensor; tools/autograd/gen_autograd_functions.py.
    """
    g.tape.op("mul", 0, a.num_bytes + b.num_bytes)
    records = g.records(a, b)
    if not records:
        return _full(g, a, b, promote(a, b))
    saved_b = g.save(b) if a.node is not None else None
    saved_a = g.save(a) if b.node is not None else None
    out = _full(g, a, b, promote(a, b))
    na, sa, da = a.numel, a.shape, a.dtype
    nb, sb, db = b.numel, b.shape, b.dtype
    recomputed = g.recomputing

    def backward(grad: Tensor) -> tuple[Tensor | None, ...]:
        nonlocal saved_a, saved_b
        grad_b = _full(g, grad, saved_a, grad.dtype) if saved_a is not None else None
        grad_a = _full(g, grad, saved_b, grad.dtype) if saved_b is not None else None
        if recomputed:
            saved_a = saved_b = None
        if grad_a is not None:
            grad_a = _back_to(g, grad_a, na, sa, da)
        if grad_b is not None:
            grad_b = _back_to(g, grad_b, nb, sb, db)
        return grad_a, grad_b

    return g.record("Mul", out, (a.node, b.node), backward)


def scale(g: Graph, x: Tensor) -> Tensor:
    """``x * number`` (or ``/``): saves nothing, the gradient is scaled into a new tensor."""
    g.tape.op("mul", 0, x.num_bytes)
    out = g.like(x)
    if g.records(x):
        g.record("Mul", out, (x.node,), lambda grad: g.like(grad))
    return out


def shift(g: Graph, x: Tensor) -> Tensor:
    """``x + number``: the gradient passes through unchanged."""
    g.tape.op("add", 0, x.num_bytes)
    out = g.like(x)
    if g.records(x):
        g.record("Add", out, (x.node,), lambda grad: grad)
    return out


def neg(g: Graph, x: Tensor) -> Tensor:
    g.tape.op("neg", 0, x.num_bytes)
    out = g.like(x)
    if g.records(x):
        g.record("Neg", out, (x.node,), lambda grad: g.like(grad))
    return out


def power(g: Graph, x: Tensor) -> Tensor:
    """``x.pow(n)``, n > 1: saves ``x``; CUDA's autocast makes it float32 first.

    The backward ``grad * (n * x.pow(n - 1))`` is one C++ expression, so its two temporaries live until it ends.
    Source: FunctionsManual.cpp, ``pow_backward``.
    """
    if g.runs_in_float32("pow"):
        x = cast(g, x, "float32")
    g.tape.op("pow", 0, x.num_bytes)
    if not g.records(x):
        return g.like(x)
    saved = g.save(x)
    out = g.like(x)

    def backward(grad: Tensor) -> Tensor:
        powered = g.like(saved)
        scaled = g.like(saved)
        result = g.like(grad)
        del scaled, powered  # C++ destroys what it made last first
        return result

    return g.record("Pow", out, (x.node,), backward)


def rsqrt(g: Graph, x: Tensor) -> Tensor:
    """Saves its result; backward is ``-0.5 * grad * result.pow(3)``. Source: derivatives.yaml rsqrt."""
    g.tape.op("rsqrt", 0, x.num_bytes)
    out = g.like(x)
    if not g.records(x):
        return out
    node = x.node
    saved = g.save(out)

    def backward(grad: Tensor) -> Tensor:
        scaled = g.like(grad)
        cubed = g.like(saved)
        result = g.like(grad)
        del cubed, scaled
        return result

    return g.record("Rsqrt", out, (node,), backward)


def tanh(g: Graph, x: Tensor) -> Tensor:
    """Saves its result. Source: derivatives.yaml tanh, ``tanh_backward``."""
    return _saves_result(g, x, "Tanh")


def _saves_result(g: Graph, x: Tensor, name: str) -> Tensor:
    g.tape.op(name.lower(), 0, x.num_bytes)
    out = g.like(x)
    if not g.records(x):
        return out
    saved = g.save(out)
    return g.record(name, out, (x.node,), lambda grad: g.like(saved))


def activation(g: Graph, x: Tensor, name: str) -> Tensor:
    """A fused activation that saves its input (silu, gelu) or its result (relu, tanh, sigmoid)."""
    if name in ("relu", "tanh", "sigmoid"):
        return _saves_result(g, x, name.capitalize())
    g.tape.op(name, 0, x.num_bytes)
    if not g.records(x):
        return g.like(x)
    saved = g.save(x)
    out = g.like(x)
    return g.record(name.capitalize(), out, (x.node,), lambda grad: g.like(saved))


def gelu_new(g: Graph, x: Tensor) -> Tensor:
    """``NewGELUActivation.forward``, op by op: ``0.5 * x * (1 + tanh(c * (x + d * x.pow(3))))``."""
    return mul(g, scale(g, x), shift(g, tanh(g, scale(g, add(g, x, scale(g, power(g, x)))))))

"""Linear layers over bitsandbytes weights; what they allocate step by step is in ``semantics.quantization``."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from memprof.analytic.autograd import Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.ops.pointwise import cast
from memprof.analytic.tape import Storage
from memprof.model.scenario import Quantization
from memprof.semantics.quantization import Step, backward_steps, forward_steps, output_dtype, saves_input


class QuantizedWeight(NamedTuple):
    """A frozen (out, in) weight in packed form. ``storages`` keeps its tensors alive.

    ``weight_dtype`` is what it was before it was quantized, ``compute_dtype`` what a 4-bit weight's products run in.
    """

    quantization: Quantization
    num_out: int
    num_in: int
    weight_dtype: str
    compute_dtype: str
    storages: tuple[Storage, ...]


def quantized_linear(g: Graph, x: Tensor, weight: QuantizedWeight) -> Tensor:
    """``Linear4bit`` or ``Linear8bitLt``; a bias changes nothing, as the kernels add it themselves.

    4-bit computes in its compute dtype, autocast or not, and casts back; 8-bit computes in the input's dtype.
    Source: bitsandbytes 0.50.2 wheel: nn/modules.py (``Linear4bit.forward``, ``Linear8bitLt.forward``).
    """
    if weight.quantization == "int8":
        return _product(g, x, weight)
    origin = x.dtype
    x = cast(g, x, weight.compute_dtype)
    return cast(g, _product(g, x, weight), origin)


def _product(g: Graph, x: Tensor, weight: QuantizedWeight) -> Tensor:
    """One ``autograd.Function``; the weight gets no gradient. The 8-bit ones keep their input, see ``Graph.keep``.

    Source: bitsandbytes 0.50.2 wheel: autograd/_functions.py.
    """
    kind, num_out, num_in, before, _, _ = weight
    tokens, dtype, device = x.numel // num_in, x.dtype, g.semantics.kind
    flops = 2 * tokens * num_out * num_in
    g.tape.op(f"linear[{kind}]", flops, x.num_bytes)
    if kind == "int8" and device == "cpu" and not g.training:
        g.unknown.add("float32 copies that bitsandbytes' CPU kernels make in 8-bit inference")
    steps = forward_steps(kind, tokens, num_out, num_in, dtype, device, g.training, g.autocast)
    out_dtype = output_dtype(kind, dtype, device, g.training, g.autocast)
    out = _play(g, steps, (*x.shape[:-1], num_out), out_dtype, through_cublas=kind != "int8" and len(steps) > 1)
    if not g.records(x):
        return out
    if saves_input(kind):
        g.keep(x)
    shape = x.shape

    def backward(grad: Tensor) -> Tensor:
        if kind == "int8":
            grad = cast(g, grad, dtype)
        steps = backward_steps(kind, tokens, num_out, num_in, grad.dtype, before)
        grad_x = _play(g, steps, shape, grad.dtype, through_cublas=True)
        grad_x.is_view = kind == "int8"
        return grad_x

    return g.record("QuantizedMm", out, (x.node,), backward, flops)


def _play(g: Graph, steps: Iterable[Step], shape: tuple[int, ...], dtype: str, *, through_cublas: bool) -> Tensor:
    """8-bit products are the library's own calls of cuBLASLt; a dequantized weight is multiplied by PyTorch."""
    held: dict[str, Storage] = {}
    for action, name, num_bytes in steps:
        if action == "alloc":
            held[name] = g.tape.alloc(num_bytes)
            if name == "output" and through_cublas:
                g.workspace()
        else:
            del held[name]
    return Tensor(shape, prod(shape), dtype, held.pop("output"))

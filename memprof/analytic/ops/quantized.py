"""Linear layers over bitsandbytes weights; what they allocate step by step is in ``semantics.quantization``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from memprof.analytic.autograd import Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.ops.pointwise import add, cast
from memprof.analytic.tape import Storage
from memprof.model.scenario import Quantization
from memprof.semantics.quantization import Step, backward_steps, forward_steps, saves_input


class QuantizedWeight(NamedTuple):
    """A frozen (out, in) weight in packed form. ``storages`` keeps its tensors alive.

    ``weight_dtype`` is what it was before it was quantized, ``compute_dtype`` what its products run in.
    """

    quantization: Quantization
    num_out: int
    num_in: int
    weight_dtype: str
    compute_dtype: str
    storages: tuple[Storage, ...]


def quantized_linear(g: Graph, x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """``Linear4bit`` or ``Linear8bitLt``: casts in, multiplies, casts back; the weight gets no gradient.

    Source: bitsandbytes 0.50.2 wheel: nn/modules.py ``Linear4bit.forward``, autograd/_functions.py.
    """
    origin = x.dtype
    compute = g.autocast or weight.compute_dtype
    x = cast(g, x, compute)
    tokens = x.numel // weight.num_in
    shape = (*x.shape[:-1], weight.num_out)
    flops = 2 * tokens * weight.num_out * weight.num_in
    records = g.records(x)
    g.tape.op(f"linear[{weight.quantization}]", flops, x.num_bytes)
    steps = forward_steps(
        weight.quantization, tokens, weight.num_out, weight.num_in, compute, g.semantics.kind, g.training
    )
    saved = g.save(x) if records and saves_input(weight.quantization) else None
    g.workspace()
    out = _play(g, steps, shape, compute)
    if records:
        x_shape, num_out, num_in, before = x.shape, weight.num_out, weight.num_in, weight.weight_dtype
        kind = weight.quantization

        def backward(grad: Tensor) -> Tensor:
            assert saved is None or saved.numel >= 0
            g.workspace()
            return _play(g, backward_steps(kind, tokens, num_out, num_in, grad.dtype, before), x_shape, grad.dtype)

        g.record("QuantizedMm", out, (x.node,), backward, flops)
    if bias is not None:
        out = add(g, out, bias)
    return out if g.autocast is not None else cast(g, out, origin)


def _play(g: Graph, steps: Iterable[Step], shape: tuple[int, ...], dtype: str) -> Tensor:
    held: dict[str, Storage] = {}
    for action, name, num_bytes in steps:
        if action == "alloc":
            held[name] = g.tape.alloc(num_bytes)
        else:
            del held[name]
    numel = 1
    for size in shape:
        numel *= size
    return Tensor(shape, numel, dtype, held.pop("output"))

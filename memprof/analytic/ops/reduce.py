"""Reductions. What a CUDA reduction kernel asks for beside its output is in ``semantics.kernels``."""

from __future__ import annotations

from math import prod

from memprof.analytic.autograd import Tensor
from memprof.analytic.graph import Graph


def sum_to(g: Graph, grad: Tensor, shape: tuple[int, ...], numel: int = -1) -> Tensor:
    """``at::sum_to``: a gradient summed over the dimensions that were broadcast."""
    numel = prod(shape) if numel < 0 else numel
    return g.new(shape, grad.dtype, numel)


def mean_last(g: Graph, x: Tensor) -> Tensor:
    """``x.mean(-1, keepdim=True)``: saves nothing; backward divides the expanded gradient into a full tensor."""
    g.tape.op("mean", 0, x.num_bytes)
    shape, numel, dtype = (*x.shape[:-1], 1), x.numel // x.shape[-1], x.dtype
    out = g.new(shape, dtype, numel)
    if g.records(x):
        full, count = x.shape, x.numel
        g.record("Mean", out, (x.node,), lambda grad: g.new(full, grad.dtype, count))
    return out

"""Reductions, with what a CUDA reduction kernel asks for beside its output."""

from __future__ import annotations

from math import prod

from memprof.analytic.autograd import Shape, Tensor
from memprof.analytic.graph import Graph
from memprof.semantics.kernels import reduction_scratch


def reduced(g: Graph, shape: Shape, dtype: str, num_inputs: int, *, over_last: bool, numel: int = -1) -> Tensor:
    """The result of a sum or mean over ``num_inputs`` elements in all; ``over_last``: those of a row are neighbours."""
    out = g.new(shape, dtype, numel)
    if g.cuda and out.numel:
        scratch = reduction_scratch(
            g.semantics, num_outputs=out.numel, num_inputs=num_inputs // out.numel, over_last=over_last
        )
        if scratch is not None:
            g.scratch(*scratch)
    return out


def sum_to(g: Graph, grad: Tensor, shape: Shape, numel: int = -1) -> Tensor:
    """``at::sum_to``: a gradient summed over the dimensions that were broadcast: leading ones, or the last."""
    numel = prod(shape) if numel < 0 else numel
    over_last = len(shape) == len(grad.shape) and shape[-1] == 1
    return reduced(g, shape, grad.dtype, grad.numel, over_last=over_last, numel=numel)


def mean_last(g: Graph, x: Tensor) -> Tensor:
    """``x.mean(-1, keepdim=True)``: saves nothing; backward divides the expanded gradient into a full tensor."""
    g.tape.op("mean", 0, x.num_bytes)
    shape, numel, dtype = (*x.shape[:-1], 1), x.numel // x.shape[-1], x.dtype
    out = reduced(g, shape, dtype, x.numel, over_last=True, numel=numel)
    if g.records(x):
        full, count = x.shape, x.numel
        g.record("Mean", out, (x.node,), lambda grad: g.new(full, grad.dtype, count))
    return out

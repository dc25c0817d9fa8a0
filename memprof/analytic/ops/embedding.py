"""Embedding look-ups."""

from __future__ import annotations

from memprof.analytic.autograd import Tensor
from memprof.analytic.graph import Graph
from memprof.semantics.kernels import embedding_backward_temporaries


def embedding(g: Graph, ids: Tensor, weight: Tensor) -> Tensor:
    """Saves the indices; backward makes a dense gradient of the whole table.

    Source: derivatives.yaml embedding; ATen/native/Embedding.cpp ``embedding_dense_backward``.
    """
    width = weight.shape[1]
    numel = ids.numel * width
    g.tape.op("embedding", 0, 2 * numel)
    records = g.records(weight)
    saved = g.save(ids) if records else None
    out = g.new((*ids.shape, width), weight.dtype, numel)
    if saved is None:
        return out
    shape, num_ids = weight.shape, ids.numel

    def backward(grad: Tensor) -> Tensor:
        assert saved is not None
        table = g.new(shape, grad.dtype)
        if g.cuda:
            g.scratch(*(b.num_bytes for b in embedding_backward_temporaries(num_ids, *shape)))
        return table

    return g.record("Embedding", out, (weight.node,), backward)

"""The language-model head's loss, as the library computes it, or chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable

from memprof.analytic.autograd import Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.ops.pointwise import cast, scale
from memprof.analytic.ops.shape import index_select, row_chunks
from memprof.semantics.chunked_loss import chunk_sizes


def causal_lm_loss(g: Graph, logits: Tensor, labels: Tensor) -> Tensor:
    """``ForCausalLMLoss``: float32 logits, labels padded and shifted, mean cross-entropy.

    The shifted labels of a single sequence lie in one piece: they stay a view of the padded ones.

    Source: transformers/loss/loss_utils.py.
    """
    logits = cast(g, logits, "float32")
    g.tape.op("constant_pad_nd")
    batch, length = labels.shape
    padded = g.new((batch, length + 1), "int64")
    if batch == 1:
        return cross_entropy(g, logits, padded)
    g.tape.op("clone")
    shifted = g.new((batch * length,), "int64")
    return cross_entropy(g, logits, shifted)


def chunked_loss(g: Graph, hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """See `memprof.semantics.chunked_loss`; all positions but the last of each sequence have a label."""
    batch, length = labels.shape
    count = batch * (length - 1)
    labelled = _labelled(g, labels, count)
    hidden = index_select(g, hidden, labelled)
    g.tape.op("index_select")
    target = g.new((count,), "int64")
    total = g.new((), "float32", 1)
    for chunk in row_chunks(g, hidden, chunk_sizes(count)):
        logits = head(chunk)
        loss = cross_entropy(g, cast(g, logits, "float32"), target)
        g.record("Add", total, (total.node, loss.node), lambda grad: (grad, grad))
        del logits, loss
    return scale(g, total)


def _labelled(g: Graph, labels: Tensor, count: int) -> Tensor:
    """``torch.where(labels != -100)[0]``."""
    g.tape.op("ne")
    mask = g.new(labels.shape, "bool")
    g.tape.op("nonzero")
    indices = g.new((count,), "int64")
    del mask
    return indices


def cross_entropy(g: Graph, logits: Tensor, target: Tensor) -> Tensor:
    """``log_softmax`` (saves its result) then ``nll_loss`` (saves it too, the target and the total weight).

    Backward: ``nll_loss_backward`` fills a zero tensor of the logits' shape, ``_log_softmax_backward_data`` makes
    another. Source: ATen/native/LossNLL.cpp, SoftMax.cpp; derivatives.yaml.
    """
    g.tape.op("_log_softmax", 0, 2 * logits.num_bytes)
    records = g.records(logits)
    shape, numel, dtype = logits.shape, logits.numel, logits.dtype
    log_probabilities = g.new(shape, dtype, numel)
    if records:
        saved_result = g.save(log_probabilities)
        g.record("LogSoftmax", log_probabilities, (logits.node,), lambda grad: _like(g, saved_result, grad))
    g.tape.op("nll_loss_forward", 0, target.num_bytes)
    saved = (g.save(log_probabilities), g.save(target)) if records else None
    loss = g.new((), dtype, 1)
    total_weight = g.new((), dtype, 1)
    if not records:
        return loss
    kept = (saved, g.save(total_weight))

    def backward(grad: Tensor) -> Tensor:
        assert kept
        return g.new(shape, dtype, numel)

    return g.record("NllLoss", loss, (log_probabilities.node,), backward)


def _like(g: Graph, saved: Tensor, grad: Tensor) -> Tensor:
    return g.new(saved.shape, grad.dtype, saved.numel)

"""``loss: chunked`` around a Hugging Face language model: see `memprof.semantics.chunked_loss`."""

from __future__ import annotations

from typing import Any

from memprof.errors import UnsupportedError
from memprof.semantics.chunked_loss import IGNORED, NUM_CHUNKS

_MORE_THAN_A_HEAD = (
    "final_logit_softcapping", "logits_soft_cap", "logit_scale", "logits_scaling", "output_router_logits",
)  # fmt: skip
"""Settings with which logits, or the loss, are more than the head's product and its cross-entropy.

Source: transformers 5.23 wheel: models/{gemma2,recurrent_gemma,cohere,granite,mixtral}/modeling_*.py.
"""


def chunk_loss(model: Any) -> None:
    """From now on the model's forward finds the chunked loss and no logits; wrappers can still be put around it.

    Raises:
        UnsupportedError: the model is no language model whose head is one linear layer.
    """
    import torch

    kind = type(model)
    more = [name for name in _MORE_THAN_A_HEAD if getattr(model.config, name, None)]
    if more or not isinstance(getattr(model, "lm_head", None), torch.nn.Linear):
        reason = f"sets {more[0]}" if more else "has no such head"
        raise UnsupportedError(
            f"loss chunked is for language models whose logits are the product of one linear head; {kind.__name__} "
            f"{reason}",
            "leave loss at full",
        )
    model.__class__ = type(kind.__name__, (kind,), {"forward": _forward})  # of the class: it makes no reference cycle


def _forward(model: Any, labels: Any, **inputs: Any) -> Any:
    from transformers.modeling_outputs import CausalLMOutputWithPast

    outputs = model.base_model(**inputs)
    loss = chunked_loss(outputs[0], labels, model.lm_head)
    return CausalLMOutputWithPast(loss=loss, past_key_values=getattr(outputs, "past_key_values", None))


def chunked_loss(hidden: Any, labels: Any, head: Any) -> Any:
    """The mean cross-entropy of the positions that have a label."""
    import torch

    hidden, labels = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    labelled = torch.where(labels != IGNORED)[0]
    hidden, labels = hidden.index_select(0, labelled), labels.index_select(0, labelled)
    total = hidden.new_zeros((), dtype=torch.float32)
    for chunk in zip(hidden.tensor_split(NUM_CHUNKS), labels.tensor_split(NUM_CHUNKS), strict=True):
        total += _sum(*chunk, head)
    return total / len(labelled)


def _sum(hidden: Any, labels: Any, head: Any) -> Any:
    from torch.nn.functional import cross_entropy

    logits = head(hidden)  # by a name: it is there as long as its float32 copy is
    return cross_entropy(logits.float(), labels, reduction="sum")

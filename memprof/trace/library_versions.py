"""An older transformers than the installed one: its model code is the installed one's, allocating as the older did.

Each override stands for one row of `memprof.semantics.transformers_releases` or of
`memprof.semantics.attention_transformers`, and is made only where the installed release is newer than that row and the
release asked for is older. What other releases did otherwise is not known to memprof, and the installed code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from memprof.semantics import transformers_releases as releases
from memprof.semantics.attention_transformers import GQA_SINCE, INPUTS_UNCOPIED_SINCE
from memprof.semantics.device import Semantics
from memprof.trace.replaced import replaced, replaced_item


@contextmanager
def transformers_of(sem: Semantics) -> Iterator[None]:
    """While open, the installed transformers builds and runs models as the release of ``sem`` did."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    table = ALL_ATTENTION_FUNCTIONS._global_mapping  # noqa: SLF001
    with ExitStack() as stack:
        if _is_before(sem, releases.CACHE_COPIES_FIRST_KEYS):
            from transformers.cache_utils import DynamicLayer

            stack.enter_context(replaced(DynamicLayer, "update", _keeping_first(DynamicLayer.update)))
        if _is_before(sem, GQA_SINCE):
            from transformers.integrations import sdpa_attention

            stack.enter_context(replaced(sdpa_attention, "use_gqa_in_sdpa", lambda *_, **__: False))
        if _is_before(sem, INPUTS_UNCOPIED_SINCE):
            stack.enter_context(replaced_item(table, "sdpa", _copying_inputs(sem, table["sdpa"])))
        if _is_before(sem, releases.GEMMA2_EAGER):
            from transformers.models.gemma2.modeling_gemma2 import Gemma2PreTrainedModel

            stack.enter_context(replaced(Gemma2PreTrainedModel, "_supports_sdpa", True))
            stack.enter_context(replaced_item(table, "sdpa", _without_soft_cap(table["sdpa"])))
        if _is_before(sem, releases.T5_ATTENTION_INTERFACE):
            from transformers.models.t5 import modeling_t5

            stack.enter_context(replaced(modeling_t5.T5PreTrainedModel, "_supports_sdpa", False))
            stack.enter_context(replaced(modeling_t5, "eager_attention_forward", _t5_attention))
        yield


def as_of(sem: Semantics, model: Any) -> None:
    """Gives a model the buffers that it had in that release, and its config the cache that training had."""
    config: Any = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type is None:
        return
    if model.training and _is_before(sem, releases.TRAINER_TURNS_CACHE_OFF):
        decoders = (module.config for module in model.modules() if getattr(module, "config", None) is not None)
        for each in (config, *(found for found in decoders if getattr(found, "is_decoder", False))):
            each.use_cache = releases.trains_with_cache(sem, model_type)
    if model_type == "gpt2" and _is_before(sem, releases.GPT2_WITHOUT_MASKS):
        shape = (1, 1, config.max_position_embeddings, config.max_position_embeddings)
        for module in model.modules():
            if type(module).__name__ == "GPT2Attention":
                module.register_buffer("bias", torch.ones(shape, dtype=torch.bool, device="cpu"), persistent=False)


def _is_before(sem: Semantics, since: releases.Release) -> bool:
    """Whether the release asked for is older than a change that the installed one has."""
    if sem.transformers >= since:
        return False
    import transformers

    major, minor, *_ = transformers.__version__.split(".")
    return (int(major), int(minor)) >= since


def _keeping_first(update: Callable[..., Any]) -> Callable[..., Any]:
    def keep_or_update(layer: Any, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if layer.is_initialized:
            return update(layer, key, value, *args, **kwargs)
        layer.lazy_initialization(key, value)
        layer.keys, layer.values = key, value
        return key, value

    return keep_or_update


def _copying_inputs(sem: Semantics, attention: Callable[..., Any]) -> Callable[..., Any]:
    opt_calls_itself = _is_before(sem, releases.OPT_ATTENTION_INTERFACE)

    def attend(module: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not (opt_calls_itself and type(module).__name__ == "OPTAttention"):
            query = query.contiguous()
            if getattr(module, "num_key_value_groups", 1) == 1:  # those of groups are copied when they are repeated
                key, value = key.contiguous(), value.contiguous()
        return attention(module, query, key, value, *args, **kwargs)

    return attend


def _without_soft_cap(attention: Callable[..., Any]) -> Callable[..., Any]:
    def attend(*args: Any, softcap: float | None = None, **kwargs: Any) -> Any:
        return attention(*args, **kwargs)

    return attend


def _t5_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    position_bias: Any,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eager attention whose bias is made by the first layer for all: it lives as long as the position bias does."""
    if not hasattr(position_bias, "with_mask"):
        mask = position_bias.new_zeros(len(query), 1, 1, key.shape[2]) if attention_mask is None else attention_mask
        position_bias.with_mask = position_bias + mask
    scores = query @ key.transpose(2, 3)
    scores += position_bias.with_mask
    weights = torch.nn.functional.dropout(scores.float().softmax(-1).type_as(scores), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights

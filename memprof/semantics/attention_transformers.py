"""What transformers decides before it calls ``scaled_dot_product_attention``: the mask, causality, grouped queries.

Source: transformers 5.23: integrations/sdpa_attention.py (``sdpa_attention_forward``, ``use_gqa_in_sdpa``) and
masking_utils.py (``sdpa_mask``, ``_ignore_causal_mask_sdpa``, ``_ignore_bidirectional_mask_sdpa``, ``eager_mask``).
"""

from __future__ import annotations

from typing import NamedTuple

from memprof.semantics.attention import Buffer
from memprof.semantics.device import Semantics

GQA_SINCE = (4, 54)  # transformers#39412, July 2025
INPUTS_UNCOPIED_SINCE = (4, 56)
_NARROW_GQA_SINCE = (5, 13)  # transformers#46960, July 2026
_PACKS_QUERY_SINCE = (5, 23)  # read there; the release that brought it may be earlier


class SdpaArguments(NamedTuple):
    """How the call is made.

    Attributes:
        mask: bool, or None.
        is_causal: PyTorch's flag.
        enable_gqa: PyTorch's flag: key and value go in with their own heads.
        repeats_kv: key and value are copied to the query's heads first; the copies are what is saved.
        packs_query: a single query goes in as (batch, key heads, query heads / key heads, width): a view.
    """

    mask: Buffer | None
    is_causal: bool
    enable_gqa: bool
    repeats_kv: bool
    packs_query: bool


def sdpa_arguments(
    sem: Semantics,
    *,
    batch: int,
    q_heads: int,
    kv_heads: int,
    q_len: int,
    kv_len: int,
    head_dim: int,
    value_head_dim: int,
    causal: bool,
    padded: bool = False,
    window: int | None = None,
) -> SdpaArguments:
    """The arguments of one layer's call.

    Args:
        sem: for the version of transformers.
        batch: sequences.
        q_heads: heads of the query.
        kv_heads: heads of key and value.
        q_len: queries of each sequence.
        kv_len: keys of each sequence, those of a cache included.
        head_dim: width of a head of query and key.
        value_head_dim: width of a head of value.
        causal: a decoder's self-attention; False for encoders and cross-attention.
        padded: whether the batch holds padding, so that the 2-D attention mask is not all ones.
        window: of sliding-window attention.
    """
    mask = None
    if not _skips_mask(causal=causal, q_len=q_len, kv_len=kv_len, padded=padded, window=window):
        mask = Buffer((batch, 1, q_len, kv_len), "bool")
    grouped = q_heads != kv_heads
    enable_gqa = grouped and mask is None and _kernels_take_groups(sem, head_dim, value_head_dim)
    packs_query = grouped and not enable_gqa and q_len == 1 and sem.transformers >= _PACKS_QUERY_SINCE
    return SdpaArguments(
        mask=mask,
        is_causal=causal and mask is None and q_len > 1,
        enable_gqa=enable_gqa,
        repeats_kv=grouped and not enable_gqa and not packs_query,
        packs_query=packs_query,
    )


def eager_mask(*, batch: int, q_len: int, kv_len: int, dtype: str, causal: bool, padded: bool = False) -> Buffer | None:
    """The additive mask of eager attention, in the model's dtype; only an encoder without padding goes without.

    On the way a bool mask of the same shape is alive.
    """
    if not causal and not padded:
        return None
    return Buffer((batch, 1, q_len, kv_len), dtype)


def copies_inputs(sem: Semantics) -> bool:
    """Whether query, key and value are made contiguous, copies that are then saved, before the call.

    Source: transformers 4.55.4 wheel: integrations/sdpa_attention.py has the three lines, 4.56.0 has not.
    """
    return sem.transformers < INPUTS_UNCOPIED_SINCE


def _skips_mask(*, causal: bool, q_len: int, kv_len: int, padded: bool, window: int | None) -> bool:
    if padded or (window is not None and kv_len >= window):
        return False
    return not causal or q_len == 1 or q_len == kv_len


def _kernels_take_groups(sem: Semantics, head_dim: int, value_head_dim: int) -> bool:
    """``use_gqa_in_sdpa`` without a mask."""
    if sem.transformers < _NARROW_GQA_SINCE:
        return sem.transformers >= GQA_SINCE
    return head_dim == value_head_dim <= 256

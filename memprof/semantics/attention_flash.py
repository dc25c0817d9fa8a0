"""The flash kernel on CUDA: PyTorch's build of it, and that of the flash-attn library."""

from __future__ import annotations

from math import ceil

from memprof.semantics.attention import AttentionCall, Recorder, Script
from memprof.semantics.device import Semantics

_INPUTS = ("query", "key", "value")


def flash(sem: Semantics, call: AttentionCall) -> Script:
    """Saves query, key, value, output, a float32 logsumexp (batch, heads, q) and the random-number state.

    Output and gradients lie in memory as the inputs do. Few queries split the keys, with float32 partial results. The
    backward keeps a float32 dQ with q rounded up to 128 and the width to 32 (64 above 128), and for grouped queries dK
    and dV for all query heads. A head width that is no multiple of 8 is padded by copies in (batch, heads, length,
    width) order, which are saved in place of the inputs; the caller gets a slice of the padded output.

    Source: aten/src/ATen/native/transformers/attention.cpp (padding), cuda/flash_attn/flash_api.cpp (``mha_fwd``,
    ``mha_bwd``); derivatives.yaml (``_scaled_dot_product_flash_attention``). Before 2.7 the state was in CPU memory, as
    a recorded run shows.
    """
    width = _round_up(call.head_dim, 8)
    padded = width != call.head_dim
    inputs = tuple(f"{name}_padded" for name in _INPUTS) if padded else _INPUTS
    state = ("rng_state", "rng_unused") if sem.torch >= (2, 7) else ()
    query, key = (*call.query_shape[:3], width), (*call.key_shape[:3], width)

    record = Recorder((*inputs, "output", "logsumexp", *state) if call.requires_grad else ())
    if padded:
        for name, shape in zip(inputs, (query, key, key), strict=True):
            record.alloc(name, shape, call.dtype)
    record.alloc("output", query, call.dtype)
    record.alloc("logsumexp", (call.batch, call.q_heads, call.q_len), "float32")
    splits = _splits(record, sem, call, width)
    if state:
        record.alloc("rng_state", (2,), "int64")
        record.alloc("rng_unused", (), "int64")
    record.free(*state, *splits, "logsumexp")
    if padded:
        record.free(*reversed(inputs))
    if call.requires_grad:
        record.backward()
        _backward(record, call, query, key, padded)
    return record.script("flash", "bhsd" if padded else call.layout)


def flash_attn(sem: Semantics, call: AttentionCall) -> Script:
    """The library's ``flash_attn_func``, of which its arguments may lie in memory in any order.

    As ``flash``, but: the random-number state is one buffer, on the device; neither output nor its gradient is copied;
    padding to a head width that is a multiple of 8 is inside, in (batch, length, heads, width) order, so that the
    gradients are slices of the padded ones.

    Source: flash-attn 2.8.3: flash_attn/flash_attn_interface.py (``FlashAttnFunc``), csrc/flash_attn/flash_api.cpp
    (``mha_fwd``, ``mha_bwd``). Published runs of it are within 0.5 % as a whole; no tape has shown its blocks.
    """
    width = _round_up(call.head_dim, 8)
    padded = width != call.head_dim
    inputs = tuple(f"{name}_padded" for name in _INPUTS) if padded else _INPUTS
    query, key = (*call.query_shape[:3], width), (*call.key_shape[:3], width)
    record = Recorder((*inputs, "output", "logsumexp", "rng_state") if call.requires_grad else ())
    if padded:
        for name, shape in zip(inputs, (query, key, key), strict=True):
            record.alloc(name, shape, call.dtype)
    record.alloc("output", query, call.dtype)
    record.alloc("logsumexp", (call.batch, call.q_heads, call.q_len), "float32")
    splits = _splits(record, sem, call, width)
    record.alloc("rng_state", (2,), "int64")
    record.free(*splits, "rng_state", "logsumexp")
    if padded:
        record.free(*inputs)
    if call.requires_grad:
        record.backward()
        record.alloc("grad_query", query, call.dtype)
        record.alloc("grad_key", key, call.dtype)
        record.alloc("grad_value", key, call.dtype)
        if padded:
            record.alloc("grad_padded", query, call.dtype)
        _sums(record, call, width)
        if padded:
            record.free("grad_padded")
        record.free("grad_output", *record.saved)
    return record.script("flash-attn", "bshd" if padded else call.layout)


def _splits(record: Recorder, sem: Semantics, call: AttentionCall, width: int) -> tuple[str, ...]:
    """Float32 partial results of split keys; a single query of grouped heads stands as a row for each of its group."""
    heads, rows = call.q_heads, call.q_len
    if rows == 1 and heads > call.kv_heads and call.dropout == 0:
        heads, rows = call.kv_heads, heads // call.kv_heads
    splits = _num_key_splits(sem, call, heads, rows)
    if splits == 1:
        return ()
    parts = (splits, call.batch, heads, rows)
    record.alloc("logsumexp_parts", parts, "float32")
    record.alloc("output_parts", (*parts, _wide(width)), "float32")
    return ("output_parts", "logsumexp_parts")


def _wide(width: int) -> int:
    return _round_up(width, 32 if width <= 128 else 64)


def _backward(
    record: Recorder, call: AttentionCall, query: tuple[int, ...], key: tuple[int, ...], padded: bool
) -> None:
    """One node, between those of the slice and of the pads where the head width is padded."""
    width = query[-1]
    grad = "grad_output"
    if padded:
        record.alloc("grad_padded", query, call.dtype)
        record.free(grad)
        grad = "grad_padded"
    copies = [
        ("grad_contiguous", padded or call.grad_layout == "bhsd"),
        ("output_contiguous", padded or call.layout == "bhsd"),
    ]
    made = [name for name, needed in copies if needed and min(call.q_heads, call.q_len) > 1]
    for name in made:
        record.alloc(name, query, call.dtype)
    suffix = "_padded" if padded else ""
    record.alloc(f"grad_query{suffix}", query, call.dtype)
    record.alloc(f"grad_key{suffix}", key, call.dtype)
    record.alloc(f"grad_value{suffix}", key, call.dtype)
    _sums(record, call, width)
    record.free(*reversed(made), grad, *record.saved)
    if padded:
        for name, shape in (("value", call.value_shape), ("key", call.key_shape), ("query", call.query_shape)):
            record.alloc(f"grad_{name}", shape, call.dtype)
            record.free(f"grad_{name}_padded")


def _sums(record: Recorder, call: AttentionCall, width: int) -> None:
    """What the backward kernel adds up in, and lets go of: dQ in float32, and dK and dV of each head of a group."""
    rows = _round_up(call.q_len, 128)
    record.alloc("softmax_sums", (call.batch, call.q_heads, rows), "float32")
    record.alloc("grad_query_float", (call.batch, rows, call.q_heads, _wide(width)), "float32")
    if call.kv_heads != call.q_heads:
        expanded = (call.batch, call.kv_len, call.q_heads, width)
        record.alloc("grad_key_expanded", expanded, call.dtype)
        record.alloc("grad_value_expanded", expanded, call.dtype)
        record.free("grad_value_expanded", "grad_key_expanded")
    record.free("grad_query_float", "softmax_sums")


def _num_key_splits(sem: Semantics, call: AttentionCall, heads: int, rows: int) -> int:
    """Into how many parts the forward splits the keys, to keep all multiprocessors busy with few queries.

    Source: cuda/flash_attn/flash_api.cpp (``set_params_splitkv``, ``num_splits_heuristic``).
    """
    tiles = call.batch * heads * -(-rows // 64)
    processors = 2 * sem.num_multiprocessors
    if call.dropout > 0 or tiles >= 0.8 * processors:
        return 1
    columns = 256 if call.head_dim <= 64 else 128 if call.head_dim <= 128 else 64
    blocks = -(-call.kv_len // columns)
    efficiency = {}
    for splits in range(1, min(128, processors, blocks) + 1):
        if splits == 1 or -(-blocks // splits) != -(-blocks // (splits - 1)):
            waves = tiles * splits / processors
            efficiency[splits] = waves / ceil(waves)
    best = max(efficiency.values())
    return next(splits for splits, its in efficiency.items() if its >= 0.85 * best)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple

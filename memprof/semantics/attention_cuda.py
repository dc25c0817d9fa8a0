"""The fused kernels on CUDA: flash, efficient (CUTLASS) and cuDNN."""

from __future__ import annotations

from math import ceil

from memprof.semantics.attention import AttentionCall, Recorder, Script
from memprof.semantics.attention_cutlass import backward_workspace, computes_delta
from memprof.semantics.device import Semantics

_HALF = ("float16", "bfloat16")
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
    splits = _flash_splits(record, sem, call, width)
    if state:
        record.alloc("rng_state", (2,), "int64")
        record.alloc("rng_unused", (), "int64")
    record.free(*state, *splits, "logsumexp")
    if padded:
        record.free(*reversed(inputs))
    if call.requires_grad:
        record.backward()
        _flash_backward(record, call, query, key, padded)
    return record.script("flash", "bhsd" if padded else call.layout)


def _flash_splits(record: Recorder, sem: Semantics, call: AttentionCall, width: int) -> tuple[str, ...]:
    """Float32 partial results of split keys; a single query of grouped heads stands as a row for each of its group."""
    heads, rows = call.q_heads, call.q_len
    if rows == 1 and heads > call.kv_heads and call.dropout == 0:
        heads, rows = call.kv_heads, heads // call.kv_heads
    splits = _flash_key_splits(sem, call, heads, rows)
    if splits == 1:
        return ()
    parts = (splits, call.batch, heads, rows)
    record.alloc("logsumexp_parts", parts, "float32")
    record.alloc("output_parts", (*parts, _flash_wide(width)), "float32")
    return ("output_parts", "logsumexp_parts")


def _flash_wide(width: int) -> int:
    return _round_up(width, 32 if width <= 128 else 64)


def _flash_backward(
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
    rows = _round_up(call.q_len, 128)
    record.alloc("softmax_sums", (call.batch, call.q_heads, rows), "float32")
    record.alloc("grad_query_float", (call.batch, rows, call.q_heads, _flash_wide(width)), "float32")
    grouped = call.kv_heads != call.q_heads
    if grouped:
        expanded = (call.batch, call.kv_len, call.q_heads, width)
        record.alloc("grad_key_expanded", expanded, call.dtype)
        record.alloc("grad_value_expanded", expanded, call.dtype)
        record.free("grad_value_expanded", "grad_key_expanded")
    record.free("grad_query_float", "softmax_sums", *reversed(made), grad, *record.saved)
    if padded:
        for name, shape in (("value", call.value_shape), ("key", call.key_shape), ("query", call.query_shape)):
            record.alloc(f"grad_{name}", shape, call.dtype)
            record.free(f"grad_{name}_padded")


def _flash_key_splits(sem: Semantics, call: AttentionCall, heads: int, rows: int) -> int:
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


def efficient(sem: Semantics, call: AttentionCall) -> Script:
    """Saves query, key, value, output, the bias, and a float32 logsumexp with q rounded up to 32.

    A bool mask becomes a bias in the query's dtype; a bias whose rows are not multiples of 8 is copied to rows that
    are. The random-number state lives in CPU memory. 16-bit calls with heads wider than 128 keep a float32 output
    while they run. Output and gradients lie (batch, length, heads, width) in memory.

    Source: aten/src/ATen/native/transformers/attention.cpp (``preprocess_mask``), cuda/attention.cu
    (``_efficient_attention_forward``), cuda/attention_backward.cu; torch 2.13 wheel:
    include/ATen/native/transformers/cuda/mem_eff_attention/kernel_forward.h and kernel_backward.h.
    """
    bias = _bias_names(call)
    saved = (*_INPUTS, "output", "logsumexp", *bias[-1:]) if call.requires_grad else ()
    record = Recorder(saved)
    _bias(record, call, bias)
    record.alloc("output", call.output_shape, call.dtype)
    if call.requires_grad:
        record.alloc("logsumexp", (call.batch, call.q_heads, _round_up(call.q_len, 32)), "float32")
    if call.dtype in _HALF and max(call.head_dim, call.value_head_dim) > 128:
        record.alloc("output_float", call.output_shape, "float32")
        record.free("output_float")
    record.free(*(name for name in reversed(bias) if name in record.buffers))
    if call.requires_grad:
        record.backward()
        _efficient_backward(record, sem, call)
        record.free("grad_output", *saved)
    return record.script("efficient", "bshd")


def _efficient_backward(record: Recorder, sem: Semantics, call: AttentionCall) -> None:
    copy = call.grad_layout == "bhsd" and min(call.q_heads, call.q_len) > 1
    if copy:
        record.alloc("grad_contiguous", call.output_shape, call.dtype)
    record.alloc("grad_query", call.query_shape, call.dtype)
    record.alloc("grad_key", call.key_shape, call.dtype)
    record.alloc("grad_value", call.value_shape, call.dtype)
    delta = (call.batch, call.q_heads, call.q_len)
    if computes_delta(sem, call):
        record.alloc("delta", delta, "float32")
    else:
        # (grad_out.to(float) * out.to(float)).sum(-1).transpose(-2, -1).contiguous(); float32 casts are free
        if call.dtype in _HALF:
            record.alloc("grad_float", call.output_shape, "float32")
            record.alloc("output_cast", call.output_shape, "float32")
        record.alloc("product", call.output_shape, "float32")
        record.alloc("sums", delta, "float32")
        record.alloc("delta", delta, "float32")
        record.free("sums", "product")
        if call.dtype in _HALF:
            record.free("output_cast", "grad_float")
    workspace = backward_workspace(sem, call)
    if workspace:
        record.alloc("workspace", (workspace,), "uint8")
        record.free("workspace")
    record.free("delta")
    if copy:
        record.free("grad_contiguous")


def cudnn(_sem: Semantics, call: AttentionCall) -> Script:
    """Saves query, key, value, output, the bias, a float32 logsumexp (batch, heads, q, 1) and the random-number state.

    Output and gradients lie in memory as the inputs do; grouped queries need no copies. What cuDNN asks for as
    workspace is its own secret and left out.

    Source: aten/src/ATen/native/cudnn/MHA.cpp (``run_cudnn_SDP_fprop``, ``run_cudnn_SDP_bprop``),
    aten/src/ATen/native/transformers/cuda/attention.cu and attention_backward.cu (``_cudnn_attention_*``).
    """
    bias = _bias_names(call, padded=False)
    saved = (*_INPUTS, "output", "logsumexp", "rng_seed", "rng_offset", *bias[-1:]) if call.requires_grad else ()
    record = Recorder(saved)
    _bias(record, call, bias)
    record.alloc("rng_seed", (), "int64")
    record.alloc("rng_offset", (), "int64")
    record.alloc("output", call.output_shape, call.dtype)
    if call.requires_grad:
        record.alloc("logsumexp", (call.batch, call.q_heads, call.q_len, 1), "float32")
    record.free("rng_offset", "rng_seed", *(name for name in reversed(bias) if name in record.buffers))
    if call.requires_grad:
        record.backward()
        record.alloc("grad_query", call.query_shape, call.dtype)
        record.alloc("grad_key", call.key_shape, call.dtype)
        record.alloc("grad_value", call.value_shape, call.dtype)
        record.free("grad_output", *saved)
    return record.script("cudnn", call.layout, "cuDNN's own workspace, which only cuDNN can tell")


def _bias_names(call: AttentionCall, *, padded: bool = True) -> tuple[str, ...]:
    """The forms that a mask takes on its way to the kernel; the last one is saved."""
    if call.mask_shape is None:
        return ()
    names = ["mask_bias" if call.mask_dtype == "bool" else "mask"]
    if padded and call.mask_shape[-1] % 8:
        names.append("mask_aligned")
    return tuple(names)


def _bias(record: Recorder, call: AttentionCall, names: tuple[str, ...]) -> None:
    if call.mask_shape is None:
        return
    if "mask_bias" in names:
        record.alloc("mask_bias", call.mask_shape, call.dtype)
    if "mask_aligned" in names:
        dtype = call.dtype if call.mask_dtype == "bool" else call.mask_dtype
        record.alloc("mask_aligned", (*call.mask_shape[:-1], _round_up(call.mask_shape[-1], 8)), dtype)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple

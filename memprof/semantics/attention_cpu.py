"""The CPU's flash kernel: what it saves and the scratch that its threads share out."""

from __future__ import annotations

from memprof.semantics.attention import AttentionCall, Recorder, Script
from memprof.semantics.device import Semantics

_HALF = ("float16", "bfloat16")


def flash_cpu(sem: Semantics, call: AttentionCall) -> Script:
    """Saves query, key, value, output, a float32 logsumexp, and the mask in the query's dtype where there is one.

    Each thread has one block of scores with its running maximum, sum and output in the forward, and two blocks of
    scores in the backward; 16-bit calls keep a copy of the scores in their own dtype. CPUs on which oneDNN packs keys
    and values (AMX) take more, which is left out.

    Source: aten/src/ATen/native/cpu/FlashAttentionKernel.cpp (``cpu_flash_attention``,
    ``cpu_flash_attention_backward``); derivatives.yaml (``_scaled_dot_product_flash_attention_for_cpu``).
    """
    convert = call.mask_shape is not None and call.mask_dtype == "bool"
    mask = () if call.mask_shape is None else ("mask_bias",) if convert else ("mask",)
    saved = ("query", "key", "value", "output", "logsumexp", *mask) if call.requires_grad else ()
    accumulate = "float32" if call.dtype in _HALF else call.dtype
    rows, columns = _blocks(call)
    threads = sem.num_threads

    record = Recorder(saved)
    if convert:
        assert call.mask_shape is not None
        record.alloc("mask_bias", call.mask_shape, call.dtype)
    record.alloc("output", call.output_shape, call.dtype)
    record.alloc("logsumexp", (call.batch, call.q_len, call.q_heads), accumulate)
    record.alloc("scratch", (threads, rows * (columns + 2 + call.value_head_dim)), accumulate)
    if call.dtype in _HALF:
        record.alloc("scores", (threads, rows, columns), call.dtype)
        record.free("scores")
    record.free("scratch", "logsumexp")
    if convert:
        record.free("mask_bias")
    if call.requires_grad:
        record.backward()
        _backward(record, call, threads, accumulate)
        record.free("grad_output", *saved)
    return record.script("flash-cpu", call.layout)


def _backward(record: Recorder, call: AttentionCall, threads: int, accumulate: str) -> None:
    rows, columns = _blocks(call)
    record.alloc("grad_query", call.query_shape, call.dtype)
    record.alloc("grad_key", call.key_shape, call.dtype)
    record.alloc("grad_value", call.value_shape, call.dtype)
    copy_grad = call.grad_layout == "bhsd" and min(call.q_heads, call.q_len) > 1
    if copy_grad:
        record.alloc("grad_output_copy", call.output_shape, call.dtype)
    record.alloc("grad_scratch", (threads, 2, rows, columns), accumulate)
    if call.dtype in _HALF:
        record.alloc("grad_scores", (threads, 2, rows, columns), call.dtype)
    record.alloc("grad_sums", (rows,), accumulate)
    record.free("grad_sums")
    if call.dtype in _HALF:
        record.free("grad_scores")
    record.free("grad_scratch")
    if copy_grad:
        record.free("grad_output_copy")


def _blocks(call: AttentionCall) -> tuple[int, int]:
    """Rows and columns of the block of scores that a thread works on."""
    rows, columns = (256, 512) if call.q_len >= 768 else (64, 512) if call.q_len >= 192 else (32, 512)
    return min(rows, call.q_len), min(columns, call.kv_len)

"""PyTorch's other fused kernels on CUDA: efficient (CUTLASS) and cuDNN."""

from __future__ import annotations

from memprof.semantics.attention import AttentionCall, Recorder, Script
from memprof.semantics.attention_cutlass import backward_workspace, computes_delta
from memprof.semantics.device import Semantics

_HALF = ("float16", "bfloat16")
_INPUTS = ("query", "key", "value")


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

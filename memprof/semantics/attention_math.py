"""The math path: attention as the plain ops of ``_scaled_dot_product_attention_math``.

Forward, with what autograd saves in brackets (float16 and bfloat16 are computed in float32):

1. 16-bit: query, key, value cast to float32
2. query * sqrt(scale)
3. causal: ``ones(q, kv, bool)``, ``tril``, ``where`` to an additive mask
4. grouped: key and value repeated to the query's heads
5. key^T * sqrt(scale)
6. query @ key^T: each is copied first unless batch and heads are neighbours in memory [both operands]
7. scores += mask, in place
8. safe softmax: softmax, ``eq(-inf)``, ``all`` over keys, masked fill in place [result]
9. dropout: noise and product; CUDA keeps a bool mask instead of noise [noise or mask]
10. 16-bit: a copy of the weights in the call's dtype, the second result, which lives until the call returns
11. weights @ value, value copied first as in 6 [both operands]
12. 16-bit: output cast back

Source: aten/src/ATen/native/transformers/attention.cpp; torch 2.13 wheel: torchgen/packaged/autograd/derivatives.yaml
(``bmm``, ``_safe_softmax``, ``native_dropout``, ``mul``). Measured on the CPU with torch 2.13, where it is exact.
"""

from __future__ import annotations

from memprof.semantics.attention import AttentionCall, Recorder, Script
from memprof.semantics.device import Semantics

_HALF = ("float16", "bfloat16")


class _Names:
    """Which buffer plays which role: a copy that is not made leaves its source in its place."""

    def __init__(self, call: AttentionCall) -> None:
        self.upcast = call.dtype in _HALF
        self.repeat = call.enable_gqa and call.q_heads != call.kv_heads
        self.copy_query = call.layout == "bshd" and _reshape_copies(call.query_shape)
        contiguous = call.layout == "bhsd" or call.repeated_kv or self.repeat
        self.copy_key = not contiguous and _reshape_copies(call.key_shape)
        self.copy_value = not contiguous and _reshape_copies(call.value_shape)
        self.query = "query_copy" if self.copy_query else "query_scaled"
        self.key = "key_copy" if self.copy_key else "key_scaled"
        self.value = (
            "value_copy" if self.copy_value
            else "value_repeated" if self.repeat
            else "value_float" if self.upcast
            else "value"
        )  # fmt: skip
        self.weights = "weights_dropped" if call.dropout > 0 else "weights"
        self.noise = ("noise",) if call.dropout > 0 else ()


def math(sem: Semantics, call: AttentionCall) -> Script:
    """The ops above one by one; saves operands of both products, the softmax and the dropout noise.

    An operand is saved for the other one's gradient: where that needs none, it is not.
    """
    name = _Names(call)
    query, key, value = call.inputs_grad
    kept = [name.query] * key + [name.key] * query + [name.weights] * value
    if query or key:
        kept += ["weights", *name.noise, name.value]
    record = Recorder(tuple(dict.fromkeys(kept)) if call.requires_grad else ())
    _forward(record, sem, call, name)
    if call.requires_grad:
        record.backward()
        _backward(record, call, name)
    return record.script("math", "bhsd")


def _forward(record: Recorder, sem: Semantics, call: AttentionCall, name: _Names) -> None:
    dtype = "float32" if name.upcast else call.dtype
    heads = (call.batch, call.q_heads)
    key, value = (*heads, call.kv_len, call.head_dim), (*heads, call.kv_len, call.value_head_dim)
    scores = (*heads, call.q_len, call.kv_len)
    convert_mask = call.mask_shape is not None and call.mask_dtype == "bool"
    if convert_mask:
        assert call.mask_shape is not None
        record.alloc("mask_bias", call.mask_shape, call.dtype)
    if name.upcast:
        record.alloc("query_float", call.query_shape, dtype)
        record.alloc("key_float", call.key_shape, dtype)
        record.alloc("value_float", call.value_shape, dtype)
    record.alloc("query_scaled", call.query_shape, dtype)
    if call.is_causal:
        record.alloc("causal_ones", scores[2:], "bool")
        record.alloc("causal", scores[2:], "bool")
        record.free("causal_ones")
        record.alloc("causal_bias", scores[2:], dtype)
        record.free("causal")
    if name.repeat:
        record.alloc("key_repeated", key, dtype)
        record.alloc("value_repeated", value, dtype)
    record.alloc("key_scaled", key, dtype)
    if name.copy_query:
        record.alloc("query_copy", call.query_shape, dtype)
    if name.copy_key:
        record.alloc("key_copy", key, dtype)
    record.alloc("scores", scores, dtype)
    record.free("key_scaled")
    _free_if(record, name.copy_query, "query_copy")
    _free_if(record, name.copy_key, "key_copy")
    if call.mask_shape is not None and name.upcast and sem.kind == "cpu":
        record.alloc("mask_float", call.mask_shape, dtype)  # CUDA's add casts on the fly
        record.free("mask_float")
    record.alloc("weights", scores, dtype)
    record.alloc("masked", scores, "bool")
    record.alloc("masked_rows", scores[:3], "bool")
    record.free("masked_rows", "masked", "scores")
    if call.dropout > 0:
        _dropout(record, sem, scores, dtype)
    if name.upcast:
        record.alloc("weights_cast", scores, call.dtype)
    if name.copy_value:
        record.alloc("value_copy", value, dtype)
    record.alloc("output_float" if name.upcast else "output", call.output_shape, dtype)
    _free_if(record, name.copy_value, "value_copy")
    if name.upcast:
        record.alloc("output", call.output_shape, call.dtype)
        record.free("output_float")
    record.free(name.weights)
    if name.repeat:
        record.free("value_repeated", "key_repeated")
    record.free("query_scaled")
    _free_if(record, call.is_causal, "causal_bias")
    if name.upcast:
        record.free("value_float", "key_float", "query_float", "weights_cast")
    _free_if(record, convert_mask, "mask_bias")


def _dropout(record: Recorder, sem: Semantics, scores: tuple[int, ...], dtype: str) -> None:
    record.alloc("noise", scores, dtype if sem.kind == "cpu" else "bool")
    record.alloc("weights_dropped", scores, dtype)
    record.free("noise", "weights")


def _backward(record: Recorder, call: AttentionCall, name: _Names) -> None:
    dtype = "float32" if name.upcast else call.dtype
    heads = (call.batch, call.q_heads)
    key, value = (*heads, call.kv_len, call.head_dim), (*heads, call.kv_len, call.value_head_dim)
    scores = (*heads, call.q_len, call.kv_len)
    grad = "grad_output"
    if name.upcast:
        record.alloc("grad_float", call.output_shape, dtype)
        record.free(grad)
        grad = "grad_float"
    if call.grad_layout == "bshd" and _reshape_copies(call.output_shape):
        record.alloc("grad_copy", call.output_shape, dtype)
        record.free(grad)
        grad = "grad_copy"

    of_query, of_key, of_value = call.inputs_grad
    of_scores = of_query or of_key
    wide = "_wide" if name.upcast or name.repeat else ""
    grad_query = "grad_query_float" if name.upcast else "grad_query"
    grad_key, grad_value = f"grad_key{wide}", f"grad_value{wide}"
    _alloc_if(record, of_value, grad_value, value, dtype)
    _alloc_if(record, of_scores, "grad_weights", scores, dtype)
    record.free(grad)
    _free_if(record, of_scores, name.value)
    if of_scores:
        grad_weights = "grad_weights"
        if call.dropout > 0:
            _free_if(record, of_value, name.weights)
            record.alloc("grad_undropped", scores, dtype)
            record.free("grad_weights", "noise")
            grad_weights = "grad_undropped"
        record.alloc("grad_scores", scores, dtype)
        record.free(grad_weights, "weights")
        _alloc_if(record, of_key, "grad_key_scaled", key, dtype)
        _alloc_if(record, of_query, "grad_query_scaled", call.query_shape, dtype)
        record.free("grad_scores")  # saved operands go in alphabetical order: mat2, self
        _free_if(record, of_query, name.key)
        _free_if(record, of_key, name.query)
    else:
        record.free(name.weights)
    if of_key:
        record.alloc(grad_key, key, dtype)
        record.free("grad_key_scaled")
    if name.repeat:
        if of_value:
            grad_value = _reduce(record, "grad_value", grad_value, call.value_shape, dtype, name.upcast)
        if of_key:
            grad_key = _reduce(record, "grad_key", grad_key, call.key_shape, dtype, name.upcast)
    if of_query:
        record.alloc(grad_query, call.query_shape, dtype)
        record.free("grad_query_scaled")
    if name.upcast:
        for needed, final, source, shape in (
            (of_value, "grad_value", grad_value, call.value_shape),
            (of_key, "grad_key", grad_key, call.key_shape),
            (of_query, "grad_query", grad_query, call.query_shape),
        ):
            if needed:
                record.alloc(final, shape, call.dtype)
                record.free(source)


def _reduce(record: Recorder, name: str, source: str, shape: tuple[int, ...], dtype: str, more: bool) -> str:
    """Sums a repeated head's gradient over its group."""
    target = f"{name}_float" if more else name
    record.alloc(target, shape, dtype)
    record.free(source)
    return target


def _reshape_copies(shape: tuple[int, ...]) -> bool:
    """Whether batch and heads of a tensor in ``bshd`` order cannot be merged in place."""
    return min(shape[:3]) > 1


def _alloc_if(record: Recorder, condition: bool, name: str, shape: tuple[int, ...], dtype: str) -> None:
    if condition:
        record.alloc(name, shape, dtype)


def _free_if(record: Recorder, condition: bool, name: str) -> None:
    if condition:
        record.free(name)

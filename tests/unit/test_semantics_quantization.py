"""Quantized weights: bytes worked out by hand, and what their layers allocate on CUDA, from the upstream code."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.semantics.quantization import backward_steps, forward_steps, prepared_dtype, stored_bytes

KINDS: list[Any] = ["int8", "nf4", "nf4-double", "fp4"]
sizes = st.integers(1, 5000)


def played(steps: Any) -> tuple[int, int]:
    """Peak and what is left, in bytes."""
    running = list(accumulate((s.num_bytes if s.action == "alloc" else -s.num_bytes for s in steps), initial=0))
    return max(running), running[-1]


def test_bytes_of_a_large_weight() -> None:
    numel = 4096 * 4096
    assert stored_bytes("int8", 4096, 4096) == numel + 4 * 4096
    assert stored_bytes("nf4", 4096, 4096) == numel * 0.5625 + 64
    assert stored_bytes("fp4", 4096, 4096) == stored_bytes("nf4", 4096, 4096)
    assert stored_bytes("nf4-double", 4096, 4096) == numel // 2 + numel // 64 + numel // 64 // 256 * 4 + 64 + 4 + 1024


def test_odd_sizes_round_up() -> None:
    assert stored_bytes("nf4", 1, 3) == 2 + 4 + 64
    assert stored_bytes("nf4-double", 1, 65) == 33 + 2 + 64 + 4 + 4 + 1024


def test_few_tokens_read_packed_weights_and_many_dequantize_the_whole() -> None:
    def forward(tokens: int, num_in: int = 128) -> tuple[int, int]:
        return played(forward_steps("nf4", tokens, 256, num_in, "bfloat16", "cuda", training=True))

    assert forward(4) == (4 * 256 * 2,) * 2
    assert forward(2048) == (256 * 128 * 2 + 2048 * 256 * 2, 2048 * 256 * 2)
    assert forward(4, 100)[0] > forward(4, 100)[1]  # rows that do not end at a block's end


def test_double_quantization_unpacks_the_maxima_too() -> None:
    blocks = 256 * 128 // 64 * 4
    peak, _ = played(forward_steps("nf4-double", 2048, 256, 128, "bfloat16", "cuda", training=True))
    assert peak == 2 * blocks + 256 * 128 * 2 + 2048 * 256 * 2
    peak, _ = played(backward_steps("nf4-double", 2048, 256, 128, "bfloat16", "bfloat16"))
    assert peak == 256 * 128 * 2 + max(blocks, 2048 * 128 * 2)


def test_a_gradient_of_another_dtype_casts_the_weight() -> None:
    peak, _ = played(backward_steps("nf4", 1, 256, 128, "float32", "bfloat16"))
    assert peak == 256 * 128 * (2 + 4)


def test_int8_multiplies_into_int32_and_scales_into_float16() -> None:
    tokens, num_out, num_in = 2048, 256, 128
    peak, left = played(forward_steps("int8", tokens, num_out, num_in, "bfloat16", "cuda", training=True))
    assert peak == tokens * (num_out * (4 + 2 + 2) + num_in + 4)
    assert left == tokens * num_out * 2
    wide, _ = played(forward_steps("int8", tokens, 8, num_in, "bfloat16", "cuda", training=True))
    assert wide == tokens * (num_in * (2 + 1 + 2 + 1) + 4)  # finding the outliers


@given(st.sampled_from(KINDS), sizes, sizes, sizes, st.sampled_from(["bfloat16", "float32"]), st.booleans())
def test_a_layer_leaves_its_output_only(
    kind: Any, tokens: int, num_out: int, num_in: int, dtype: str, training: bool
) -> None:
    item = {"bfloat16": 2, "float32": 4}[dtype]
    for device_kind in ("cuda", "cpu"):
        steps = forward_steps(kind, tokens, num_out, num_in, dtype, device_kind, training)
        assert played(steps)[1] == tokens * num_out * item
    assert played(backward_steps(kind, tokens, num_out, num_in, dtype, "bfloat16"))[1] == tokens * num_in * item


@pytest.mark.parametrize(("before", "after"), [("bfloat16", "float32"), ("float16", "float32"), ("uint8", "uint8")])
def test_kbit_preparation(before: str, after: str) -> None:
    assert prepared_dtype(before) == after

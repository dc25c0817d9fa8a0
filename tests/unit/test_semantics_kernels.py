"""Kernel temporaries against recorded GPU runs, and against the CPU where it has the same op."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memprof.model.device import Device
from memprof.model.scenario import Software
from memprof.semantics.device import Semantics, semantics_for
from memprof.semantics.kernels import (
    dropout_mask,
    embedding_backward_temporaries,
    index_put_temporaries,
    layer_norm_backward_temporaries,
    layer_norm_statistics_dtype,
    reduction_scratch,
)

CPU = Semantics(kind="cpu", architecture="cpu")
H100 = Semantics(kind="cuda", architecture="sm_90", num_multiprocessors=132)
A100 = Semantics(kind="cuda", architecture="sm_80", num_multiprocessors=108)


@pytest.mark.parametrize(
    ("sem", "outputs", "inputs", "over_last", "item_bytes", "recorded"),
    [
        # (device, elements of the result, elements reduced into each) of ops on the tapes named
        (H100, 512, 2560, False, 4, (10_485_760, 16)),  # h100_lm2.7b_ctx128_fullstep_fp32, sum in backward
        (H100, 512, 10_000, False, 4, (41_156_608, 16)),  # the same, sum of the loss
        (H100, 512, 10_000, False, 16, (164_626_432, 16)),  # the same, max with index
        (A100, 512, 2000, False, 4, (8_388_608, 16)),  # gpu_lm4x512_ctx200_train_fp32, norm weights
        (A100, 512, 1000, False, 4, None),  # gpu_lm4x512_ctx100_train_fp32, norm weights
        (A100, 1, 524_288, True, 4, (256, 4)),  # gpu_attention_8x4096x16_fwd_bwd, sum to a scalar
        (A100, 2000, 512, True, 4, None),  # gpu_lm4x512_ctx200_train_fp32, mean over the width
    ],
)
def test_reductions_ask_for_the_scratch_that_tapes_show(
    sem: Semantics, outputs: int, inputs: int, over_last: bool, item_bytes: int, recorded: tuple[int, int] | None
) -> None:
    scratch = reduction_scratch(
        sem, num_outputs=outputs, num_inputs=inputs, over_last=over_last, item_bytes=item_bytes
    )  # fmt: skip
    assert scratch == recorded


def test_the_cpu_reduces_without_scratch() -> None:
    assert reduction_scratch(CPU, num_outputs=512, num_inputs=10_000, over_last=False) is None


@given(outputs=st.integers(1, 20_000), inputs=st.integers(1, 200_000), over_last=st.booleans())
def test_reduction_scratch_is_bounded_by_the_card(outputs: int, inputs: int, over_last: bool) -> None:
    scratch = reduction_scratch(H100, num_outputs=outputs, num_inputs=inputs, over_last=over_last)
    if scratch is not None:
        resident_threads = 132 * 2048
        per_block_values = 4 * 4 * (1 + inputs // 256)
        assert 0 < scratch.buffer_bytes <= 8 * resident_threads * 4 + outputs * 512 * per_block_values
        assert scratch.semaphore_bytes >= 4


def test_indexing_by_1000_positions_holds_four_index_tensors_as_the_tapes_do() -> None:
    assert [buffer.num_bytes for buffer in index_put_temporaries(1000)] == [8000] * 4


def test_embedding_backward_needs_nothing_up_to_3072_indices_and_float32_rows_beyond() -> None:
    assert embedding_backward_temporaries(3072, 32_000, 64) == ()
    *_, rows = embedding_backward_temporaries(8192, 32_000, 64)
    assert rows == ((8192 + 819, 64), "float32")
    *_, capped = embedding_backward_temporaries(8192, 100, 64)
    assert capped == ((919, 64), "float32")


def test_layer_norm_sums_partially_only_over_very_many_narrow_rows() -> None:
    assert layer_norm_backward_temporaries(H100, 65_536, 768, "bfloat16") == ()
    assert layer_norm_backward_temporaries(H100, 131_072, 4096, "bfloat16") == ()
    weight, bias = layer_norm_backward_temporaries(H100, 131_072, 768, "bfloat16")
    assert weight == bias == ((1365, 768), "bfloat16")


@pytest.mark.parametrize(
    ("dtype", "weight"),
    [("float32", "float32"), ("float32", None), ("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", None)],
)
def test_layer_norm_statistics_have_the_dtype_that_the_cpu_saves(dtype: str, weight: str | None) -> None:
    scale = None if weight is None else torch.ones(8, dtype=getattr(torch, weight))
    _, mean, _ = torch.native_layer_norm(torch.ones(2, 8, dtype=getattr(torch, dtype)), (8,), scale, scale, 1e-5)
    assert str(mean.dtype) == f"torch.{layer_norm_statistics_dtype(CPU, dtype, weight)}"
    assert layer_norm_statistics_dtype(H100, dtype, weight) == "float32"


def test_dropout_keeps_a_byte_per_element_on_cuda_and_noise_on_the_cpu() -> None:
    assert dropout_mask(H100, (1000, 2048), "float32").num_bytes == 2_048_000  # gpu_tinyllama1.1b_int8_lora_ckpt
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        torch.nn.functional.dropout(torch.ones(10, 20, requires_grad=True), 0.1)
    (noise,) = saved
    assert noise.nbytes == dropout_mask(CPU, (10, 20), "float32").num_bytes


# --- the value that rules are asked with


def device(**fields: object) -> Device:
    return Device(**{"name": "x", "title": "x", "kind": "cuda", "architecture": "sm_90", "total_bytes": 1, **fields})


def test_semantics_take_the_newest_release_and_its_wheels_libraries() -> None:
    sem = semantics_for(device(), Software())
    assert (sem.torch, sem.cuda, sem.cudnn, sem.num_multiprocessors) == ((2, 13), (13, 0), 92000, 132)
    assert sem.warnings == ()
    assert semantics_for(device(num_multiprocessors=114), Software()).num_multiprocessors == 114


def test_an_older_release_brings_its_own_libraries() -> None:
    sem = semantics_for(device(architecture="sm_80"), Software(torch="2.6.0", transformers="4.51.3"))
    assert (sem.torch, sem.transformers, sem.cudnn) == ((2, 6), (4, 51), 90100)


def test_what_is_not_known_is_a_warning() -> None:
    assert "2.6 to 2.13" in semantics_for(device(), Software(torch="2.3")).warnings[0]
    rocm = semantics_for(device(kind="rocm", architecture="gfx942"), Software())
    assert (rocm.kind, rocm.cudnn, rocm.capability) == ("cuda", None, (8, 0))
    assert "ROCm" in rocm.warnings[0]

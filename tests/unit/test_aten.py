"""What kernels allocate besides their outputs: the numbers on the tapes, and PyTorch's own shapes."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import profile

from memprof.semantics.aten import CONCERNED, PRODUCTS, Call, Operand, kernel_allocations
from memprof.semantics.device import Semantics
from memprof.trace.kernel_calls import kernel_calls, uses_workspace
from tests.support.tape_runs import Event, recorded
from tests.support.tapes import tape

A100 = Semantics(kind="cuda", architecture="sm_80", torch=(2, 6), num_multiprocessors=108)
H100 = Semantics(kind="cuda", architecture="sm_90", torch=(2, 6), num_multiprocessors=132)
NEWEST = Semantics(kind="cuda", architecture="sm_90")
CPU = Semantics(kind="cpu", architecture="cpu")


def tensor(*shape: int, dtype: str = "float32", order: tuple[int, ...] | None = None) -> Operand:
    """A dense operand; ``order`` names its dimensions from the outermost in memory to the innermost."""
    stride, step = [0] * len(shape), 1
    for dim in reversed(order or tuple(range(len(shape)))):
        stride[dim], step = step, step * shape[dim]
    return Operand(shape, dtype, tuple(stride))


def sizes(sem: Semantics, op: str, args: tuple[Any, ...], *outputs: Operand) -> list[int]:
    return list(kernel_allocations(sem, op, Call(args, outputs)))


def groups(name: str, op: str) -> set[tuple[int, ...]]:
    """Each run of neighbouring allocations by one op on a tape."""
    found: set[tuple[int, ...]] = set()
    run: list[int] = []
    for event in [*recorded(tape(name)), Event(1, "")]:
        if event.num_bytes > 0 and event.op == op:
            run.append(event.num_bytes)
        elif event.num_bytes > 0 and run:
            found.add(tuple(run))
            run = []
    return found


# --- reductions


@pytest.mark.parametrize(
    ("sem", "name", "outer", "op", "operand", "output"),
    [
        (A100, "gpu_lm4x512_ctx200_train_fp32", "sum_dim_IntList", "sum", (10, 200, 512), (1, 1, 512)),
        (H100, "h100_lm2.7b_ctx128_fullstep_fp32", "sum_dim_IntList", "sum", (4, 128, 10_000), (4, 128, 1)),
        (A100, "gpu_attention_8x4096x16_fwd_bwd", "sum", "sum", (8, 4096, 16), ()),
    ],
)
def test_sums_take_what_tapes_show(
    sem: Semantics, name: str, outer: str, op: str, operand: tuple[int, ...], output: tuple[int, ...]
) -> None:
    out = tensor(*output)
    # A column of logits was summed on the tape: the einsum of the head leaves the positions innermost.
    order = (2, 0, 1) if operand[-1] == 10_000 else None
    found = sizes(sem, op, (tensor(*operand, order=order),), out)
    assert found
    assert (out.num_bytes, *found) in groups(name, outer)


def test_a_maximum_with_its_index_is_reduced_in_16_bytes() -> None:
    logits = tensor(512, 10_000, order=(1, 0))
    found = sizes(H100, "max", (logits, 1, True), tensor(512, 1), tensor(512, 1, dtype="int64"))
    assert (2048, 4096, *found) in groups("h100_lm2.7b_ctx128_fullstep_fp32", "max_dim")


def test_a_mean_over_rows_takes_nothing() -> None:
    assert sizes(A100, "mean", (tensor(10, 100, 512), [-1], True), tensor(10, 100, 1)) == []
    assert (4000,) in groups("gpu_lm4x512_ctx100_train_fp32", "mean_dim")


@given(shape=st.lists(st.integers(1, 40), min_size=1, max_size=4), data=st.data())
def test_a_reduction_may_be_asked_of_any_shape(shape: list[int], data: st.DataObject) -> None:
    dims = data.draw(st.sets(st.integers(0, len(shape) - 1)))
    keep = data.draw(st.booleans())
    left = [1 if dim in dims else size for dim, size in enumerate(shape) if keep or dim not in dims]
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    found = sizes(H100, "sum", (tensor(*shape, order=order),), tensor(*left))
    assert len(found) in (0, 2)
    assert sizes(CPU, "sum", (tensor(*shape, order=order),), tensor(*left)) == []


# --- products


def test_products_with_bias_go_through_cublaslt_and_its_megabyte_until_2_8() -> None:
    args = (tensor(50_000), tensor(5000, 10_000), tensor(10_000, 50_000, order=(1, 0)))
    out = tensor(5000, 50_000)
    assert (out.num_bytes, *sizes(H100, "addmm", args, out)) in groups("h100_linear_grad", "linear")
    assert sizes(NEWEST, "addmm", args, out) == []


def test_cublas_reads_transposes_but_not_broadcasts() -> None:
    plain, turned = tensor(8, 16, 32), tensor(8, 32, 64, order=(0, 2, 1))
    out = tensor(8, 16, 64)
    assert sizes(A100, "bmm", (plain, turned), out) == []
    broadcast = Operand((8, 16, 32), "float32", (0, 0, 1))
    assert sizes(A100, "bmm", (broadcast, turned), out) == [broadcast.num_bytes]
    assert sizes(CPU, "bmm", (broadcast, turned), out) == []


def test_every_product_of_the_tapes_brings_the_workspace() -> None:
    aten = torch.ops.aten
    products = (aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default)
    assert all(uses_workspace(op) for op in products)
    assert not uses_workspace(aten.mul.Tensor)
    assert all(hasattr(aten, name) for name in PRODUCTS)


# --- indices


def test_adding_at_indices_sorts_them() -> None:
    rows, ids, grads = tensor(10_000, 512), tensor(10, 100, dtype="int64"), tensor(10, 100, 512)
    assert sizes(A100, "_index_put_impl_", (rows, (ids,), grads, True, True), rows) == [8000] * 4
    assert {size for run in groups("gpu_lm4x512_ctx100_train_fp32", "_index_put_impl_") for size in run} == {8000, 1}
    assert sizes(A100, "_index_put_impl_", (rows, (ids,), grads, False, True), rows) == []


def test_values_in_another_order_are_copied_before_they_are_added() -> None:
    rows, ids = tensor(10_000, 2560), tensor(4, 128, dtype="int64")
    grads = tensor(4, 128, 2560, order=(1, 2, 0))
    found = sizes(H100, "_index_put_impl_", (rows, (ids,), grads, True, True), rows)
    assert found == [5_242_880, 4096, 4096, 4096, 4096]
    assert 5_242_880 in {size for run in groups("h100_lm2.7b_ctx128_fullstep_fp32", "_index_put_impl_") for size in run}


def test_embeddings_add_their_gradients_in_float32_segments() -> None:
    grad, ids = tensor(8192, 64, dtype="bfloat16"), tensor(8192, dtype="int64")
    found = sizes(H100, "embedding_dense_backward", (grad, ids, 32_000, -1, False), tensor(32_000, 64))
    assert found[-1] == (8192 + 819) * 64 * 4


def test_a_mask_that_is_scattered_through_gets_positions() -> None:
    hidden, mask = tensor(2, 100, 64), Operand((2, 100, 64), "bool", (100, 1, 0))
    assert sizes(H100, "masked_scatter", (hidden, mask, tensor(64)), hidden) == [12_800, 8 * 12_800]


# --- norms, losses and others


def test_batch_norm_copies_inputs_in_another_order_as_the_tape_shows() -> None:
    grid = (80, 96, 60)
    moved = tensor(1, 2, *grid, order=(2, 0, 1, 3, 4))
    assert sizes(A100, "native_batch_norm", (moved,), moved) == [moved.num_bytes]
    for order in ((0, 1, 2, 3, 4), (0, 2, 3, 4, 1)):
        assert sizes(A100, "native_batch_norm", (tensor(1, 2, *grid, order=order),), moved) == []
    assert (3_686_400, 3_686_400, 256, 256) in groups("gpu24_octree_nca_train", "batch_norm")


def test_layer_norm_and_rms_norm_sum_partially_over_very_many_rows() -> None:
    x = tensor(131_072, 768, dtype="bfloat16")
    row, stat = tensor(768, dtype="bfloat16"), tensor(131_072, 1)
    part = 1365 * 768 * 2
    both = sizes(NEWEST, "native_layer_norm_backward", (x, x, [768], stat, stat, row, row, [True] * 3), x, row, row)
    one = sizes(NEWEST, "_fused_rms_norm_backward", (x, x, [768], stat, row, [True, True]), x, row)
    assert (both, one) == ([part, part], [part])


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("op", ["mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits"])
def test_a_loss_makes_what_the_profiler_sees_on_the_cpu(op: str, reduction: str) -> None:
    real = (torch.ones(1000), torch.zeros(1000))
    with profile(profile_memory=True, acc_events=True) as record:
        out = getattr(torch.nn.functional, op)(*real, reduction=reduction)
    taken = [event.nbytes() for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    expected = [*sizes(CPU, op, (tensor(1000), tensor(1000)), tensor(*out.shape)), out.nbytes]
    assert taken.count(4000) == expected.count(4000)


def test_scores_are_searched_for_rows_without_a_key() -> None:
    scores = tensor(2, 4, 100, 200)
    assert sizes(H100, "_safe_softmax", (scores, -1, None), scores) == [scores.numel, scores.numel // 200]


def test_norms_of_many_tensors_need_a_float_for_each_chunk_of_the_largest() -> None:
    tensors = (tensor(65_536 * 3 + 1), tensor(10))
    assert sizes(H100, "_foreach_norm", (tensors, 2, None), tensor(), tensor()) == [4 * 4 * 2]


def test_softmax_copies_scores_in_another_order() -> None:
    scores = tensor(2, 100, 4, 200, order=(0, 2, 1, 3))
    assert sizes(H100, "_softmax", (scores, -1, False), scores) == [scores.num_bytes]


# --- from dispatched calls


def test_a_dispatched_call_becomes_operands_with_defaults_spelled_out() -> None:
    calls = kernel_calls(A100)
    x = torch.empty(10, 200, 512)
    out = x.sum((0, 1), keepdim=True)
    assert calls(torch.ops.aten.sum.dim_IntList, (x, [0, 1], True), {}, out) == (8_388_608, 16)
    weight = torch.empty(100, 8)
    index = [torch.zeros(5, dtype=torch.int64)]
    args = (weight, index, torch.empty(5, 8))
    assert calls(torch.ops.aten._index_put_impl_.default, args, {}, weight) == ()
    assert len(calls(torch.ops.aten._index_put_impl_.default, args, {"accumulate": True}, weight)) == 4
    assert calls(torch.ops.aten.mul.Tensor, (x, x), {}, x) == ()


def test_every_row_is_of_an_op_that_exists() -> None:
    assert [op for op in CONCERNED if not hasattr(torch.ops.aten, op)] == []


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 2, 3)])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (1, 3, 1, 1)])
def test_operands_know_what_tensors_know_of_their_order(shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    operand = tensor(*shape, order=order)
    real = torch.empty(prod(shape)).as_strided(shape, operand.stride)
    assert operand.is_contiguous == real.is_contiguous()
    assert operand.is_channels_last == real.is_contiguous(memory_format=torch.channels_last)

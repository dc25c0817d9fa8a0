"""What CPU kernels allocate besides their outputs, against PyTorch's profiler; and fake kernels against the real."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from memprof.semantics.device import Semantics
from memprof.trace.cpu_kernels import CpuKernels
from memprof.trace.fake_kernels import kernel as fake_kernel
from memprof.trace.host_reads import fake_tensors
from tests.support.memory_profile import memory_profile

CPU = Semantics(kind="cpu", architecture="cpu", num_threads=1)
aten = torch.ops.aten


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def measured(action: Callable[[], Any]) -> tuple[int, Any]:
    with memory_profile() as record:
        out = action()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))), out


def num_bytes(out: Any) -> int:
    parts = out if isinstance(out, tuple) else (out,)
    return sum(part.untyped_storage().nbytes() for part in parts if part is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize(
    ("inputs", "weights", "stride", "padding", "groups"),
    [((3, 32, 32), (16, 3, 7, 7), 2, 3, 1), ((8, 16, 16), (8, 1, 7, 7), 1, 3, 8), ((16, 60), (16, 16, 4), 2, 0, 1)],
)
def test_convolutions_take_what_the_profiler_saw(
    dtype: torch.dtype, batch: int, inputs: Any, weights: Any, stride: int, padding: int, groups: int
) -> None:
    x, w = torch.randn(batch, *inputs, dtype=dtype), torch.randn(weights, dtype=dtype)
    ways = [[number] * (len(weights) - 2) for number in (stride, padding, 1, 0)]
    forward = (x, w, None, *ways[:3], False, ways[3], groups)
    peak, y = measured(lambda: aten.convolution.default(*forward))
    kernels = CpuKernels(CPU)
    assert sum(kernels(aten.convolution.default, forward, {}, y)) + num_bytes(y) == peak

    backward = (torch.randn_like(y), x, w, None, *ways[:3], False, ways[3], groups, [True, True, False])
    peak, grads = measured(lambda: aten.convolution_backward.default(*backward))
    assert sum(kernels(aten.convolution_backward.default, backward, {}, grads)) + num_bytes(grads) == peak


@pytest.mark.parametrize("op", [aten.mul.Tensor, aten.add.Tensor, aten.div.Tensor])
def test_operands_of_other_dtypes_are_cast(op: Any) -> None:
    wide, narrow = torch.randn(64, 96), torch.randn(64, 1, dtype=torch.bfloat16)
    for args in ((wide, narrow), (narrow, wide), (wide, wide)):
        peak, out = measured(lambda args=args: op(*args))
        assert sum(CpuKernels(CPU)(op, args, {}, out)) + num_bytes(out) == peak


def test_a_result_of_another_dtype_is_computed_beside_it() -> None:
    narrow, wide = torch.randn(64, 96, dtype=torch.bfloat16), torch.randn(64, 96)
    peak, out = measured(lambda: aten.mul_.Tensor(narrow, wide))
    assert sum(CpuKernels(CPU)(aten.mul_.Tensor, (narrow, wide), {}, out)) == peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_products_have_the_real_shapes(dtype: torch.dtype) -> None:
    offs = torch.tensor([16, 32], dtype=torch.int32)
    tokens, weights = torch.randn(32, 24, dtype=dtype), torch.randn(2, 24, 40, dtype=dtype)
    for a, b in ((tokens, weights), (tokens.t().contiguous(), torch.randn(32, 40, dtype=dtype))):
        real = aten._grouped_mm.default(a, b, offs)
        fake = traced(aten._grouped_mm.default, a, b, offs)
        assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


def test_the_loss_of_unaligned_sequences_has_the_real_shapes() -> None:
    log_probs = torch.randn(20, 3, 9).log_softmax(-1)
    targets, lengths = torch.randint(1, 9, (3, 6)), torch.tensor([20, 18, 20])
    real = aten._ctc_loss.Tensor(log_probs, targets, lengths, torch.tensor([6, 4, 5]))
    fake = fake_kernel(aten._ctc_loss.Tensor)(log_probs, targets, lengths, torch.tensor([6, 4, 5]))  # type: ignore[misc]
    assert [part.shape for part in fake] == [part.shape for part in real]


def traced(func: Any, *args: Any) -> Any:
    kernel = fake_kernel(func)
    assert kernel is not None
    with FakeTensorMode() as mode:
        return kernel(*(mode.from_tensor(arg) for arg in args))


def test_layer_norm_of_strided_inputs_returns_what_is_contiguous() -> None:
    with fake_tensors():
        strided, weight = torch.empty(3, 8, 16).transpose(1, 2), torch.empty(8)
        y, mean, rstd = aten.native_layer_norm.default(strided, [8], weight, weight, 1e-5)
        grads = aten.native_layer_norm_backward.default(strided, strided, [8], mean, rstd, weight, weight, [True] * 3)
    assert y.is_contiguous()
    assert grads[0].is_contiguous()


@pytest.mark.parametrize(("shape", "dims"), [((288, 96), [0]), ((5, 32, 16, 16), [0, 2, 3]), ((6, 9, 24), [0, 1])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_in_16_bits_take_what_the_profiler_saw(shape: Any, dims: list[int], dtype: torch.dtype) -> None:
    args = (torch.randn(shape, dtype=dtype), dims, True)
    peak, out = measured(lambda: aten.sum.dim_IntList(*args))
    assert sum(CpuKernels(CPU)(aten.sum.dim_IntList, args, {}, out)) + num_bytes(out) == peak


@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_are_asked_on_the_threads_of_the_run_that_is_played(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        image, filters = torch.randn(2, 3, 64, 64), torch.randn(48, 3, 16, 16)
        args = (torch.randn(2, 48, 4, 4), image, filters, [48], [16, 16], [0, 0], [1, 1], False, [0, 0], 1)
        func = torch.ops.aten.convolution_backward.default
        call = (*args, [False, True, True])
        kernel = CpuKernels(Semantics(kind="cpu", architecture="cpu", num_threads=1))
        taken = kernel(func, call, {}, func(*call))
    finally:
        torch.set_num_threads(before)
    torch.set_num_threads(1)
    alone = CpuKernels(Semantics(kind="cpu", architecture="cpu", num_threads=1))(func, call, {}, func(*call))
    torch.set_num_threads(before)
    assert taken == alone

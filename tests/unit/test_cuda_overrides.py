"""Composite ops and optimizers that choose on fake CPU tensors as on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.semantics.device import Semantics
from memprof.trace.cuda_overrides import cuda_ops, device_behaviour

H100 = Semantics(kind="cuda", architecture="sm_90", cuda=(13, 0), cudnn=92000)
CPU = Semantics(kind="cpu", architecture="cpu")


@pytest.fixture
def on_cuda() -> Iterator[None]:
    with device_behaviour(H100), FakeTensorMode():
        yield


class Called(TorchDispatchMode):
    """Names of the ops that reach a kernel while this is open."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def saved_by(run: Callable[[], Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Dtype and shape of what autograd saves."""
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        run()
    return [(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for tensor in saved]


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, requires_grad=True)


def test_dropout_saves_a_bool_mask_and_its_backward_is_one_kernel(on_cuda: None) -> None:
    x = leaf(10, 20)
    assert saved_by(lambda: functional.dropout(x, 0.1)) == [("bool", (10, 20))]
    with Called() as called:
        functional.dropout(x, 0.1).exp().sum().backward()
    assert "native_dropout" in called.names
    assert "native_dropout_backward" in called.names


@pytest.mark.parametrize(("p", "train"), [(0.0, True), (0.1, False)])
def test_dropout_that_drops_nothing_is_no_kernel(on_cuda: None, p: float, train: bool) -> None:
    x = leaf(10, 20)
    with Called() as called:
        assert functional.dropout(x, p, train) is x
    assert not called.names


def test_dropout_inside_other_ops_is_met_too(on_cuda: None) -> None:
    lstm = nn.LSTM(8, 8, num_layers=2, dropout=0.5)
    with Called() as called:
        lstm(torch.empty(3, 2, 8))
    assert called.names.count("native_dropout") == 1


@pytest.mark.parametrize("softmax", [functional.softmax, functional.log_softmax])
def test_float16_scores_are_converted_by_softmax_itself(on_cuda: None, softmax: Callable[..., torch.Tensor]) -> None:
    scores = leaf(4, 8, dtype=torch.float16)
    with Called() as called:
        assert softmax(scores, -1, dtype=torch.float32).dtype == torch.float32
    assert "_to_copy" not in called.names
    bfloat = leaf(4, 8, dtype=torch.bfloat16)
    with Called() as called:
        softmax(bfloat, -1, dtype=torch.float32)
    assert "_to_copy" in called.names


def test_rms_norm_saves_its_input_its_weight_and_a_float32_for_each_row(on_cuda: None) -> None:
    x, weight = leaf(6, 5, 16, dtype=torch.bfloat16), leaf(16, dtype=torch.bfloat16)
    expected = [("bfloat16", (6, 5, 16)), ("bfloat16", (16,)), ("float32", (6, 5, 1))]
    assert saved_by(lambda: functional.rms_norm(x, (16,), weight)) == expected
    with Called() as called:
        functional.rms_norm(x, (16,), weight).exp().sum().backward()
    assert "_fused_rms_norm_backward" in called.names
    assert x.grad is not None
    assert weight.grad is not None
    assert (x.grad.shape, weight.grad.shape) == (x.shape, weight.shape)


def test_rms_norm_was_made_of_parts_before_2_9() -> None:
    with cuda_ops(Semantics(kind="cuda", architecture="sm_90", torch=(2, 8))), FakeTensorMode(), Called() as called:
        functional.rms_norm(leaf(6, 16), (16,))
    assert "rsqrt" in called.names


@pytest.mark.parametrize(("sem", "dtype"), [(H100, "float32"), (CPU, "bfloat16")])
def test_layer_norm_keeps_float32_statistics_on_cuda_whatever_was_traced_before(sem: Semantics, dtype: str) -> None:
    for each in (CPU, H100, sem):  # fake kernels remember their results
        with device_behaviour(each), FakeTensorMode():
            x, weight = leaf(6, 16, dtype=torch.bfloat16), leaf(16, dtype=torch.bfloat16)
            saved = saved_by(lambda: functional.layer_norm(x, (16,), weight, weight))  # noqa: B023
    assert [kind for kind, shape in saved if shape == (6, 1)] == [dtype, dtype]


def test_optimizers_and_clipping_take_the_foreach_path(on_cuda: None) -> None:
    weights = [nn.Parameter(torch.empty(8, 8)) for _ in range(3)]
    for weight in weights:
        weight.grad = torch.empty_like(weight)
    optimizer = torch.optim.AdamW(weights)
    with Called() as called:
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    assert "_foreach_norm" in called.names
    assert called.names.count("_foreach_addcdiv_") == 1
    assert "sqrt" not in called.names


def test_the_cpu_keeps_its_own_ways() -> None:
    with device_behaviour(CPU), FakeTensorMode():
        x = leaf(10, 20)
        assert saved_by(lambda: functional.dropout(x, 0.1)) == [("float32", (10, 20))]
        with Called() as called:
            functional.rms_norm(x, (20,))
    assert "rsqrt" in called.names

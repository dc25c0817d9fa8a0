"""CUDA's autocast on CPU tensors, fake and real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from memprof.semantics.device import Semantics
from memprof.trace.cuda_autocast import cuda_autocast

H100 = Semantics(kind="cuda", architecture="sm_90")
HALF, FULL = torch.bfloat16, torch.float32


@pytest.fixture
def half() -> Iterator[None]:
    """Inside CUDA's autocast to bfloat16."""
    with cuda_autocast(H100), torch.autocast("cuda", HALF):
        yield


class Casts(TorchDispatchMode):
    """The sizes of what is cast while this is open."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default:
            self.sizes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


LOW, HIGH = torch.ones(4, 4, dtype=HALF), torch.ones(4, 4)


@pytest.mark.parametrize(
    ("run", "dtype"),
    [
        (lambda: HIGH @ HIGH, HALF),
        (lambda: functional.linear(HIGH, HIGH), HALF),
        (lambda: torch.einsum("ij,jk->ik", HIGH, HIGH), HALF),
        (lambda: functional.softmax(LOW, -1), FULL),
        (lambda: functional.log_softmax(LOW, -1), FULL),
        (lambda: LOW.exp(), FULL),
        (lambda: LOW.pow(2), FULL),
        (lambda: LOW.sum(), FULL),
        (lambda: LOW.sum(-1), FULL),
        (lambda: LOW.cumsum(-1), FULL),
        (lambda: LOW.norm(dim=-1), FULL),
        (lambda: torch.norm(LOW), FULL),
        (lambda: functional.layer_norm(LOW, (4,)), FULL),
        (lambda: functional.rms_norm(LOW, (4,)), FULL),
        (lambda: torch.addcmul(LOW, LOW, HIGH), FULL),
        (lambda: torch.addcmul(LOW, LOW, LOW), HALF),
        (lambda: LOW + HIGH, FULL),
        (lambda: torch.cat([LOW, LOW]), HALF),
        (lambda: LOW.mean(-1), HALF),
        (lambda: functional.gelu(LOW), HALF),
        (lambda: functional.softmax(LOW, -1, dtype=HALF), HALF),  # a dtype that is asked for stays
        (lambda: HIGH.double() @ HIGH.double(), torch.float64),  # never cast
    ],
)
def test_ops_run_in_the_dtype_that_cudas_lists_say(half: None, run: Callable[[], torch.Tensor], dtype: Any) -> None:
    assert run().dtype == dtype


@pytest.mark.parametrize(("torch_version", "dtype"), [((2, 11), HALF), ((2, 12), FULL)])
def test_rms_norm_is_listed_from_2_12_on(torch_version: tuple[int, int], dtype: Any) -> None:
    sem = Semantics(kind="cuda", architecture="sm_90", torch=torch_version)
    with cuda_autocast(sem), torch.autocast("cuda", HALF):
        assert functional.rms_norm(LOW, (4,)).dtype == dtype


def test_cross_entropy_takes_its_log_softmax_in_the_logits_dtype_and_its_loss_in_float32(half: None) -> None:
    """The composite names a dtype for ``log_softmax``, so only ``nll_loss`` is told otherwise."""
    logits = LOW.clone().requires_grad_()
    loss = functional.cross_entropy(logits, torch.zeros(4, dtype=torch.int64))
    assert loss.dtype == FULL
    assert loss.grad_fn.name() == "NllLossBackward0"
    assert loss.grad_fn.next_functions[0][0].name() == "ToCopyBackward0"


def test_a_weight_is_cast_once_until_the_outermost_autocast_ends() -> None:
    weight, frozen = torch.ones(3, 4, requires_grad=True), torch.ones(5, 4)
    with cuda_autocast(H100), Casts() as casts:
        for _ in range(2):
            with torch.autocast("cuda", HALF):
                functional.linear(LOW, weight)
                with torch.autocast("cpu", HALF):
                    torch.einsum("ij,kj->ik", LOW, weight)
                functional.linear(LOW, weight)
                functional.linear(LOW, weight.view(3, 4))  # a view is not kept
        assert casts.sizes == [(3, 4)] * 4
        casts.sizes.clear()
        with torch.autocast("cuda", HALF):
            functional.linear(LOW, frozen)
            functional.linear(LOW, frozen)
        assert casts.sizes == [(5, 4)] * 2
        casts.sizes.clear()
        with torch.autocast("cuda", HALF, cache_enabled=False):
            functional.linear(LOW, weight)
            functional.linear(LOW, weight)
        assert casts.sizes == [(3, 4)] * 2


def test_casts_are_seen_by_autograd(half: None) -> None:
    weight = torch.ones(3, 4, requires_grad=True)
    functional.linear(LOW, weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == FULL


def test_a_recomputation_runs_under_the_autocast_of_its_forward() -> None:
    weight = torch.ones(4, 4, requires_grad=True)
    seen = []

    def block(x: torch.Tensor) -> torch.Tensor:
        out = functional.linear(x, weight)
        seen.append((out.dtype, torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")))
        return out

    with cuda_autocast(H100), set_checkpoint_early_stop(False):
        for reentrant in (False, True):
            with torch.autocast("cuda", HALF):
                out = checkpoint(block, HIGH.clone().requires_grad_(), use_reentrant=reentrant)
            out.sum().backward()
    assert seen == [(HALF, True, HALF)] * 4


def test_custom_functions_go_back_to_the_state_of_their_forward() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        @torch.amp.custom_fwd(device_type="cuda")
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

        @staticmethod
        @torch.amp.custom_bwd(device_type="cuda")
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            states.append(torch.is_autocast_enabled("cuda"))
            return 2 * grad

    states: list[bool] = []
    with cuda_autocast(H100):
        with torch.autocast("cuda", HALF):
            out = Double.apply(HIGH.clone().requires_grad_())
        out.sum().backward()
    assert states == [True]


def test_libraries_that_ask_by_device_type_are_answered() -> None:
    with cuda_autocast(H100):
        assert torch.get_autocast_dtype("cpu") == torch.get_autocast_dtype("cuda") == torch.float16  # CUDA's default
        assert not torch.is_autocast_enabled()
        with torch.autocast("cpu", HALF):
            assert torch.is_autocast_enabled()
            assert torch.is_autocast_enabled("cuda")
            with torch.autocast("cuda", enabled=False):  # as rotary embeddings do
                assert not torch.is_autocast_enabled("cpu")
                assert (HIGH @ HIGH).dtype == FULL
            assert (HIGH @ HIGH).dtype == HALF


def test_nothing_is_left_behind() -> None:
    with cuda_autocast(H100):
        pass
    assert torch.get_autocast_dtype("cpu") == HALF
    with torch.autocast("cpu", HALF):
        assert functional.softmax(LOW, -1).dtype == HALF  # the CPU's own list
        assert functional.linear(HIGH, HIGH).dtype == HALF
        assert not torch.is_autocast_enabled("cuda")

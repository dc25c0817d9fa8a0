"""Autocast's lists against PyTorch's header, its registrations and real CPU runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch users know
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.semantics.autocast import CPU_POLICIES, CUDA_POLICIES, FP32_BY_DTYPE, autocast_policy, keeps_cast
from memprof.semantics.device import Semantics

CPU = Semantics(kind="cpu", architecture="cpu")
CUDA = Semantics(kind="cuda", architecture="sm_90")
HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
# Registered beside the header's lists, for calls that name cuDNN.
CUDNN = {"cudnn_convolution", "cudnn_convolution_transpose"}


def header_list(macro: str) -> set[str]:
    body = re.search(rf"#define AT_FORALL_{macro}\(_\)((?:.*\\\n)*.*\n)", HEADER.read_text())
    assert body is not None
    return set(re.findall(r"_\((?:ADD_NS\()?(\w+)", body.group(1)))


def cuda_ops(policy: str) -> set[str]:
    return {op for op, its in CUDA_POLICIES.items() if its == policy}


def test_cuda_lists_are_those_of_the_header() -> None:
    assert cuda_ops("lower") == header_list("LOWER_PRECISION_FP") | CUDNN
    assert header_list("FP32_SET_OPT_DTYPE") == FP32_BY_DTYPE
    assert cuda_ops("fp32") == header_list("FP32") | FP32_BY_DTYPE | header_list("DIFFERENT_REDISPATCH_SIGNATURE")
    assert cuda_ops("promote") == header_list("PROMOTE")


def registered(op: str, key: str) -> bool:
    overloads = [name for name in torch._C._dispatch_get_all_op_names() if name.split(".")[0] == f"aten::{op}"]
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for name in overloads)


def test_listed_ops_are_the_ones_that_pytorch_registers() -> None:
    assert [op for op in CPU_POLICIES if not registered(op, "AutocastCPU")] == []
    assert [op for op in CUDA_POLICIES if not registered(op, "AutocastCUDA")] == []
    everyday = {
        "softmax", "log_softmax", "layer_norm", "rms_norm", "group_norm", "pow", "rsqrt", "mean", "sum", "cumsum",
        "exp", "gelu", "silu", "add", "mul", "embedding", "einsum", "index_put", "addcmul", "scatter_add", "logsumexp",
    }  # fmt: skip
    assert {op for op in everyday if registered(op, "AutocastCPU")} == set()
    assert {op for op in everyday if registered(op, "AutocastCUDA")} == everyday & CUDA_POLICIES.keys()


IMAGE = torch.ones(3, 3, 1, 1)
CALLS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": lambda x: F.linear(x, x),
    "matmul": lambda x: x @ x,
    "mm": lambda x: torch.mm(x, x),
    "addmm": lambda x: torch.addmm(x, x, x),
    "bmm": lambda x: torch.bmm(x[None], x[None]),
    "baddbmm": lambda x: torch.baddbmm(x[None], x[None], x[None]),
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    "conv2d": lambda x: F.conv2d(x[:, :, None, None].expand(3, 3, 4, 4), IMAGE.to(x.dtype)),
    "mse_loss": lambda x: F.mse_loss(x, x),
    "smooth_l1_loss": lambda x: F.smooth_l1_loss(x, x),
    "nll_loss": lambda x: F.nll_loss(x, torch.zeros(3, dtype=torch.long)),
    "cross_entropy_loss": lambda x: F.cross_entropy(x, torch.zeros(3, dtype=torch.long)),
    "binary_cross_entropy_with_logits": lambda x: F.binary_cross_entropy_with_logits(x, x),
    "kl_div": lambda x: F.kl_div(x, x, reduction="sum"),
    "prod": lambda x: x.prod(-1),
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "layer_norm": lambda x: F.layer_norm(x, (3,)),
    "rms_norm": lambda x: F.rms_norm(x, (3,)),
    "pow": lambda x: x.pow(2),
    "rsqrt": lambda x: x.rsqrt(),
    "mean": lambda x: x.mean(-1),
    "sum": lambda x: x.sum(-1),
    "gelu": lambda x: F.gelu(x),
    "silu": lambda x: F.silu(x),
    "embedding": lambda x: F.embedding(torch.zeros(2, dtype=torch.long), x),
}


@pytest.mark.parametrize("op", CALLS)
def test_cpu_autocast_gives_the_dtype_that_the_policy_says(op: str) -> None:
    expected = {"lower": (torch.bfloat16, torch.bfloat16), "fp32": (torch.float32, torch.float32)}.get(
        autocast_policy(CPU, op), (torch.float32, torch.bfloat16)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = tuple(CALLS[op](torch.ones(3, 3, dtype=dtype)).dtype for dtype in (torch.float32, torch.bfloat16))
    assert results == expected


def test_cpu_autocast_concatenates_to_the_widest_dtype() -> None:
    wide, narrow = torch.ones(2), torch.ones(2, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.cat([wide, narrow]).dtype == torch.float32
    assert autocast_policy(CPU, "cat") == "promote"


def test_the_devices_differ_where_it_costs_memory() -> None:
    for op in ("softmax", "log_softmax", "layer_norm", "pow", "sum"):
        assert (autocast_policy(CUDA, op), autocast_policy(CPU, op)) == ("fp32", "none")
    assert autocast_policy(CUDA, "cat") == "none"


def test_rms_norm_is_cast_from_2_12_on() -> None:
    assert autocast_policy(CUDA, "rms_norm") == "fp32"
    assert autocast_policy(Semantics(kind="cuda", architecture="sm_90", torch=(2, 11)), "rms_norm") == "none"


class Casts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("view", [True, False])
@pytest.mark.parametrize("leaf", [True, False])
def test_a_cast_is_made_once_exactly_where_it_is_kept(grad: bool, view: bool, leaf: bool) -> None:
    weight = torch.ones(3, 3).requires_grad_(grad)
    if not leaf:
        weight = weight * 1
    if view:
        weight = weight.detach().view(3, 3).requires_grad_(grad) if leaf else weight.view(3, 3)
    x = torch.ones(3, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16), Casts() as casts:
        F.linear(x, weight)
        F.linear(x, weight)
    kept = keeps_cast(
        dtype="float32", is_leaf=weight.is_leaf, requires_grad=weight.requires_grad, is_view=weight._is_view()
    )
    assert casts.count == (1 if kept else 2)


def test_casts_are_kept_without_gradients_too() -> None:
    weight = torch.ones(3, 3, requires_grad=True)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), Casts() as casts:
        F.linear(torch.ones(3, 3, dtype=torch.bfloat16), weight)
        F.linear(torch.ones(3, 3, dtype=torch.bfloat16), weight)
    assert casts.count == 1


def test_kept_casts_die_with_the_outermost_autocast() -> None:
    weight = torch.ones(3, 3, requires_grad=True)
    x = torch.ones(3, 3, dtype=torch.bfloat16)
    with Casts() as casts:
        for _ in range(2):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                F.linear(x, weight)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    F.linear(x, weight)
                F.linear(x, weight)
    assert casts.count == 2

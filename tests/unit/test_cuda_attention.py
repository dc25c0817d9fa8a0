"""Attention on fake tensors takes the kernel of the device and allocates what its script says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.errors import UnsupportedError
from memprof.semantics.attention import AttentionCall
from memprof.semantics.attention_choice import choose
from memprof.semantics.attention_scripts import attention_script
from memprof.semantics.device import Semantics
from memprof.trace.attention import attention_kernels
from memprof.trace.op_names import stands_for
from memprof.workload.attention import only_kernel

A100 = Semantics(kind="cuda", architecture="sm_80", cuda=(13, 0), cudnn=92000)
H100 = Semantics(kind="cuda", architecture="sm_90", cuda=(13, 0), cudnn=92000)
CPU = Semantics(kind="cpu", architecture="cpu")


class Made(TorchDispatchMode):
    """Bytes of what is made for attention kernels, and the kernels' names."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes: list[int] = []
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = stands_for()
        if name is not None and func is torch.ops.aten.empty.memory_format:
            self.num_bytes.append(out.nbytes)
            self.names.add(name)
        return out


def projected(heads: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    flat = torch.empty(2, 200, heads * width, dtype=dtype, requires_grad=True)
    return flat.view(2, 200, heads, width).transpose(1, 2)


def played(sem: Semantics, width: int, dtype: torch.dtype, kv_heads: int = 4, **options: Any) -> tuple[Made, Made]:
    """What a forward and a backward make."""
    with attention_kernels(sem), FakeTensorMode():
        inputs = [projected(heads, width, dtype) for heads in (4, kv_heads, kv_heads)]
        with Made() as forward:
            out = functional.scaled_dot_product_attention(*inputs, **options)
        with Made() as backward:
            out.transpose(1, 2).reshape(2, 200, -1).exp().sum().backward()
        for tensor in inputs:
            assert tensor._base is not None
            assert tensor._base.grad is not None
            assert tensor._base.grad.shape == tensor._base.shape
    return forward, backward


@pytest.mark.parametrize(
    ("sem", "width", "dtype", "kv_heads", "options", "kernel"),
    [
        (A100, 64, torch.bfloat16, 4, {"is_causal": True}, "flash"),
        (A100, 64, torch.bfloat16, 2, {"is_causal": True, "enable_gqa": True}, "flash"),
        (H100, 64, torch.bfloat16, 4, {"is_causal": True}, "cudnn"),
        (A100, 64, torch.float32, 4, {}, "efficient"),
        (CPU, 64, torch.float32, 4, {}, "flash-cpu"),
    ],
)
def test_a_fused_kernel_makes_what_its_script_says(
    sem: Semantics, width: int, dtype: torch.dtype, kv_heads: int, options: dict[str, bool], kernel: str
) -> None:
    call = AttentionCall(
        batch=2, q_heads=4, kv_heads=kv_heads, q_len=200, kv_len=200, head_dim=width, value_head_dim=width,
        dtype=str(dtype).removeprefix("torch."), **options,
    )  # fmt: skip
    assert choose(sem, call) == kernel
    script = attention_script(sem, kernel, call)  # type: ignore[arg-type]
    made = played(sem, width, dtype, kv_heads, **options)
    for steps, found in zip((script.forward, script.backward), made, strict=True):
        expected = [script.buffers[step.name].num_bytes for step in steps if step.alloc]
        assert found.num_bytes == expected
    assert [len(found.names) for found in made] == [1, 1]
    assert made[1].names == {name + "_backward" for name in made[0].names}


def test_autograd_holds_what_the_kernel_saves_and_nothing_more() -> None:
    saved: list[torch.Tensor] = []
    with attention_kernels(A100), FakeTensorMode():
        query = projected(4, 64, torch.bfloat16)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
            functional.scaled_dot_product_attention(query, query, query)
    assert Counter(tuple(tensor.shape) for tensor in saved) == {
        (2, 4, 200, 64): 4,  # query, key, value, output
        (2, 4, 200): 1,
        (2,): 1,
        (): 1,
    }


def test_a_width_that_flash_does_not_take_is_padded_and_cut_again() -> None:
    with attention_kernels(A100), FakeTensorMode():
        query = projected(4, 60, torch.bfloat16)
        out = functional.scaled_dot_product_attention(query, query, query)
    assert out.shape == (2, 4, 200, 60)
    assert out.stride(-2) == 64


def test_a_mask_that_needs_a_gradient_gets_one() -> None:
    with attention_kernels(A100), FakeTensorMode():
        query = projected(4, 64, torch.float32)
        mask = torch.zeros(1, 4, 200, 200, requires_grad=True)
        functional.scaled_dot_product_attention(query, query, query, mask).sum().backward()
        assert mask.grad is not None
        assert mask.grad.shape == mask.shape


def test_the_math_path_is_pytorchs_own() -> None:
    with attention_kernels(A100), FakeTensorMode(), sdpa_kernel(SDPBackend.MATH):
        query = projected(4, 64, torch.bfloat16)
        out = functional.scaled_dot_product_attention(query, query, query)
    assert out.grad_fn.name() == "ToCopyBackward0"


@pytest.mark.parametrize(
    ("attention", "kernel"),
    [("sdpa", "flash"), ("sdpa-efficient", "efficient"), ("sdpa-cudnn", "cudnn"), ("sdpa-flash", "flash")],
)
def test_a_scenario_may_name_the_kernel(attention: str, kernel: str) -> None:
    with attention_kernels(A100), FakeTensorMode(), only_kernel(attention), Made() as made:
        query = projected(4, 64, torch.bfloat16)
        functional.scaled_dot_product_attention(query, query, query)
    assert made.names == {f"aten::_scaled_dot_product_{kernel}_attention"}


def test_a_kernel_that_is_asked_for_and_cannot_run_says_why() -> None:
    with attention_kernels(A100), FakeTensorMode(), only_kernel("sdpa-flash"):
        query = projected(4, 64, torch.float32)
        with pytest.raises(UnsupportedError, match="float32"):
            functional.scaled_dot_product_attention(query, query, query)


def test_without_gradients_nothing_is_kept_for_a_backward() -> None:
    with attention_kernels(A100), FakeTensorMode(), torch.no_grad(), Made() as made:
        query = projected(4, 64, torch.float32)
        functional.scaled_dot_product_attention(query, query, query)
    assert made.num_bytes == [2 * 200 * 4 * 64 * 4]  # the output; the efficient kernel makes no logsumexp then


def test_outside_the_cpus_own_kernel_is_back() -> None:
    with attention_kernels(A100):
        pass
    query = torch.ones(1, 1, 8, 8, requires_grad=True)
    out = functional.scaled_dot_product_attention(query, query, query)
    assert out.grad_fn.name() == "ScaledDotProductFlashAttentionForCpuBackward0"

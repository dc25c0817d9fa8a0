"""Where a backward writes in place: traced graphs against real ones, op by op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.trace.in_place import InPlace

WATCHED = {
    "add", "add_", "index_add", "index_add_", "index_put", "_index_put_impl_", "scatter", "scatter_", "scatter_add",
    "scatter_add_",
}  # fmt: skip


def shared(x: Tensor, w: Tensor) -> Tensor:
    """A gradient that two nodes wait for cannot be written over."""
    k, h = x * 3, x * 2
    early = h.exp()
    return (k + h).exp() + early.exp()


def rotated(x: Tensor, w: Tensor) -> Tensor:
    q = (x * 2).view(4, 2, 4)
    turned = torch.cat((-q[..., 2:], q[..., :2]), -1)
    return (q * 0.3 + turned * 0.2).exp()


def normed(x: Tensor, w: Tensor) -> Tensor:
    h = x * 2
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) + h


def summed(x: Tensor, w: Tensor) -> Tensor:
    """A sum's gradient is an expanded scalar, which is no place to add to."""
    h = x * 2
    late = h.exp().sum()
    return h.sum() + late


def viewed(x: Tensor, w: Tensor) -> Tensor:
    h = x * 2
    late = h.exp().sum()
    return h.view(8, 4).exp().sum() + late


def chosen(x: Tensor, w: Tensor) -> Tensor:
    h = x * 2
    index = torch.zeros(4, 8, dtype=torch.int64)
    picked = h[index[0]].sum() + h.gather(1, index).sum() + h.index_select(0, index[0]).sum()
    return picked + h.max(1).values.sum() + h.topk(2).values.sum()


GRAPHS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "three products of one input": lambda x, w: (lambda h: h @ w + (h @ w).exp() + (h @ w).sin())(x * 1),
    "a residual": lambda x, w: (lambda h: (h + h @ w).exp())(x * 2),
    "a transpose": lambda x, w: (lambda h: (h.t() @ h).exp().sum() + h.t().exp().sum())(x * 2),
    "a layer norm": lambda x, w: (lambda h: (h + torch.layer_norm(h, (8,)) @ w).exp())(x * 2),
    "halves": lambda x, w: (lambda a, b: a * b + a)(*(x * 2).chunk(2, 1)),
    **{function.__name__: function for function in (shared, rotated, normed, summed, viewed, chosen)},
}


class Redirected(TorchDispatchMode):
    """Calls what a real backward would call, and lists it."""

    def __init__(self) -> None:
        self.in_place = InPlace()
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = self.in_place.written(func, args) or func
        if func.overloadpacket.__name__ in WATCHED:
            self.called.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def op(event: Any) -> str:
    return str(event.name).removeprefix("aten::")


def leaves() -> tuple[Tensor, Tensor]:
    return torch.ones(4, 8, requires_grad=True), torch.ones(8, 8, requires_grad=True)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_traced_backward_writes_in_place_where_a_real_one_does(name: str) -> None:
    loss = GRAPHS[name](*leaves()).sum()
    with profile(acc_events=True) as real:
        loss.backward()
    events = sorted(real.events(), key=lambda event: event.time_range.start)
    expected = [op(event) for event in events if op(event) in WATCHED and op(event.cpu_parent) not in WATCHED]
    with FakeTensorMode():
        loss = GRAPHS[name](*leaves()).sum()
        with Redirected() as traced:
            loss.backward()
    assert traced.called == expected
    assert expected


def test_what_the_user_adds_is_left_alone() -> None:
    with FakeTensorMode(), Redirected() as traced:
        x, _ = leaves()
        with torch.no_grad():
            x + x
        (x + x).sum().backward()
    assert traced.called == ["add", "add", "add"]

"""From a dispatched op to the `memprof.semantics.aten` rule of its kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memprof.semantics.aten import CONCERNED, PRODUCTS, Call, Operand, kernel_allocations
from memprof.semantics.device import Semantics

KernelCalls = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], tuple[int, ...]]


def kernel_calls(sem: Semantics) -> KernelCalls:
    """What tells, of an op with its arguments and result, how large the blocks are that its kernel has besides."""

    def allocations(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> tuple[int, ...]:
        op = func.overloadpacket.__name__
        if op not in CONCERNED:
            return ()
        return kernel_allocations(sem, op, Call(_described(func, args, kwargs), _tensors(out)))

    return allocations


def uses_workspace(func: Any) -> bool:
    """Whether an op is a product that gives its thread and stream a cuBLAS workspace."""
    return func.overloadpacket.__name__ in PRODUCTS


def uses_lt_workspace(func: Any) -> bool:
    """Whether an op may be a product with bias, which goes to cuBLASLt."""
    return func.overloadpacket.__name__ == "addmm"


def _described(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments in the order of the schema, with tensors as operands."""
    rest = func._schema.arguments[len(args) :]  # noqa: SLF001
    return tuple(_plain(arg) for arg in (*args, *(kwargs.get(each.name, each.default_value) for each in rest)))


def _plain(arg: Any) -> Any:
    if isinstance(arg, torch.Tensor):
        return Operand(tuple(arg.shape), str(arg.dtype).removeprefix("torch."), tuple(arg.stride()))
    return tuple(_plain(each) for each in arg) if isinstance(arg, list | tuple) else arg


def _tensors(out: Any) -> tuple[Operand, ...]:
    parts = out if isinstance(out, list | tuple) else (out,)
    return tuple(_plain(part) for part in parts if isinstance(part, torch.Tensor))

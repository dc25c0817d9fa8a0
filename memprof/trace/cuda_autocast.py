"""CUDA's autocast for tensors whose device says ``cpu``.

``torch.autocast("cuda")`` only acts on CUDA tensors, and CPU autocast has other lists. So the kernels that autocast
keeps for the CPU in PyTorch's dispatcher are replaced, for as long as `cuda_autocast` is open, by kernels that follow
CUDA's lists; every op called from Python or from inside another op passes through them, above autograd, as on CUDA.
Entering, nesting, disabling and re-entering (checkpointing, custom autograd functions) stay PyTorch's own.

Not covered: a device type that custom code compares by itself, as ``custom_fwd(cast_inputs=...)`` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.amp.autocast_mode import autocast
from torch.utils import _pytree
from torch.utils.weak import WeakTensorKeyDictionary

from memprof.semantics.autocast import FP32_BY_DTYPE, autocast_policy, keeps_cast
from memprof.semantics.device import Semantics
from memprof.trace.replaced import dispatcher_kernels, replaced

Kernel = Callable[..., Any]
_KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)  # noqa: SLF001


@contextlib.contextmanager
def cuda_autocast(sem: Semantics) -> Iterator[None]:
    """While open, CPU autocast is CUDA's, and ``"cuda"`` is understood as another name for it.

    Its default dtype is float16, as CUDA's. Of ops with overloads, those follow the lists that PyTorch registers.
    """
    caster = _Caster()
    listed = _registered("AutocastCUDA")
    kernels = dict.fromkeys(_registered("AutocastCPU") - listed, torch.library.fallthrough_kernel)
    kernels |= {name: caster.kernel(name, autocast_policy(sem, _packet(name))) for name in listed}

    start, clear = autocast.__init__, torch.clear_autocast_cache
    is_enabled, get_dtype = torch.is_autocast_enabled, torch.get_autocast_dtype

    def init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        start(self, _spoken(device_type), *args, **kwargs)

    def clear_both() -> None:
        caster.kept.clear()
        clear()

    with contextlib.ExitStack() as stack:
        stack.enter_context(dispatcher_kernels("AutocastCPU", kernels))
        stack.enter_context(replaced(autocast, "__init__", init))
        stack.enter_context(replaced(torch, "clear_autocast_cache", clear_both))
        stack.enter_context(replaced(torch, "is_autocast_enabled", lambda device="cuda": is_enabled(_spoken(device))))
        stack.enter_context(replaced(torch, "get_autocast_dtype", lambda device: get_dtype(_spoken(device))))
        stack.callback(torch.set_autocast_dtype, "cpu", get_dtype("cpu"))
        torch.set_autocast_dtype("cpu", torch.float16)
        yield


class _Caster:
    """Casts the inputs of ops by policy, and keeps the casts of weights.

    Source: torch 2.13 wheel: include/ATen/autocast_mode.h (``WrapFunction_``), aten/src/ATen/autocast_mode.cpp
    (``cached_cast``).
    """

    def __init__(self) -> None:
        self.kept: Any = WeakTensorKeyDictionary()

    def kernel(self, name: str, policy: str) -> Kernel:
        """What takes the place of an op's own autocast kernel: casts, then the op itself without autocast."""
        op, packet = _overload(name), _packet(name)
        if policy == "none":
            return torch.library.fallthrough_kernel
        if packet == "norm":
            run: Kernel = _norm
        elif packet in FP32_BY_DTYPE:
            run = partial(_told_dtype, op)
        else:
            run = partial(self._cast_and_run, op, policy)

        def without_autocast(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(_KEY):  # noqa: SLF001
                return run(*args, **kwargs)

        return without_autocast

    def _cast_and_run(self, op: Any, policy: str, *args: Any, **kwargs: Any) -> Any:
        lower = torch.get_autocast_dtype("cpu")
        if policy == "promote":
            tensors = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if _is_eligible(leaf)]
            policy = "fp32" if any(tensor.dtype == torch.float32 for tensor in tensors) else "lower"
        cast = partial(self._cast, dtype=lower if policy == "lower" else torch.float32)
        # A C++ call evaluates its arguments last to first, as the recorded tapes show too.
        named = {name: cast(kwargs[name]) for name in reversed(kwargs)}
        placed = [cast(arg) for arg in reversed(args)]
        return op(*reversed(placed), **named)

    def _cast(self, arg: Any, dtype: torch.dtype) -> Any:
        """The argument in ``dtype`` where it is a floating tensor, or a list of them."""
        if isinstance(arg, list | tuple):
            return [self._cast(each, dtype) for each in arg]
        if not _is_eligible(arg) or arg.dtype == dtype:
            return arg
        if not (dtype == torch.get_autocast_dtype("cpu") and torch.is_autocast_cache_enabled() and _is_kept(arg)):
            return arg.to(dtype)
        if arg not in self.kept:
            self.kept[arg] = arg.to(dtype)
        return self.kept[arg]


def _told_dtype(op: Any, *args: Any, **kwargs: Any) -> Any:
    """``softmax``, ``sum`` and their like: asked for float32 where no dtype was asked for."""
    names = [argument.name for argument in op._schema.arguments]  # noqa: SLF001
    given = dict(zip(names, args, strict=False)) | kwargs
    if _is_eligible(args[0]) and given.get("dtype") is None:
        given["dtype"] = torch.float32
    return op(**given)


def _norm(tensor: torch.Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False) -> torch.Tensor:
    """The overloads of ``norm`` that cannot be told a dtype go to those that can."""
    dtype = torch.float32 if _is_eligible(tensor) else tensor.dtype
    if dim is None:
        return torch.ops.aten.norm.ScalarOpt_dtype(tensor, p, dtype=dtype)
    return torch.ops.aten.norm.ScalarOpt_dim_dtype(tensor, p, dim, keepdim, dtype=dtype)


def _is_eligible(arg: Any) -> bool:
    return isinstance(arg, torch.Tensor) and arg.is_floating_point() and arg.dtype != torch.float64


def _is_kept(tensor: torch.Tensor) -> bool:
    return keeps_cast(
        dtype=str(tensor.dtype).removeprefix("torch."),
        is_leaf=tensor.is_leaf,
        requires_grad=tensor.requires_grad,
        is_view=tensor._is_view(),  # noqa: SLF001
    )


def _spoken(device_type: str) -> str:
    return "cpu" if device_type == "cuda" else device_type


def _registered(key: str) -> set[str]:
    """ATen ops, as ``pow.Tensor_Scalar``, for which PyTorch has a kernel under a dispatch key."""
    names: list[str] = torch._C._dispatch_get_registrations_for_dispatch_key(key)  # noqa: SLF001
    return {name.removeprefix("aten::") for name in names if name.startswith("aten::")}


def _packet(name: str) -> str:
    return name.partition(".")[0]


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")

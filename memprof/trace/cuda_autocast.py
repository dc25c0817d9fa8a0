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
from typing import TYPE_CHECKING, Any

from memprof.semantics.autocast import FP32_BY_DTYPE, autocast_policy, keeps_cast
from memprof.semantics.device import Semantics
from memprof.trace.replaced import dispatcher_kernels, replaced

if TYPE_CHECKING:
    import torch

Kernel = Callable[..., Any]


@contextlib.contextmanager
def cuda_autocast(sem: Semantics) -> Iterator[None]:
    """While open, CPU autocast is CUDA's, and ``"cuda"`` is understood as another name for it.

    Its default dtype is float16, as CUDA's. Of ops with overloads, those follow the lists that PyTorch registers.
    """
    import torch
    from torch.amp.autocast_mode import autocast

    caster = _Caster()
    kernels = {op: caster.kernel(op, autocast_policy(sem, _packet(op))) for op in _listed("AutocastCUDA")}
    kernels |= dict.fromkeys(_listed("AutocastCPU") - set(kernels), torch.library.fallthrough_kernel)

    start, clear = autocast.__init__, torch.clear_autocast_cache
    is_enabled, get_dtype = torch.is_autocast_enabled, torch.get_autocast_dtype

    def init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        start(self, _spoken(device_type), *args, **kwargs)

    def clear_both() -> None:
        caster.kept.clear()
        clear()

    previous = get_dtype("cpu")
    with contextlib.ExitStack() as stack:
        stack.enter_context(dispatcher_kernels("AutocastCPU", kernels))
        stack.enter_context(replaced(autocast, "__init__", init))
        stack.enter_context(replaced(torch, "clear_autocast_cache", clear_both))
        stack.enter_context(replaced(torch, "is_autocast_enabled", lambda device="cuda": is_enabled(_spoken(device))))
        stack.enter_context(replaced(torch, "get_autocast_dtype", lambda device: get_dtype(_spoken(device))))
        torch.set_autocast_dtype("cpu", torch.float16)
        try:
            yield
        finally:
            torch.set_autocast_dtype("cpu", previous)


class _Caster:
    """Casts the inputs of ops by policy, and keeps the casts of weights."""

    def __init__(self) -> None:
        from torch.utils.weak import WeakTensorKeyDictionary

        self.kept: Any = WeakTensorKeyDictionary()

    def kernel(self, name: str, policy: str) -> Kernel:
        """What takes the place of the op's own autocast kernel: cast, then the op itself without autocast."""
        import torch

        if policy == "none":
            return torch.library.fallthrough_kernel
        op = _overload(name)
        key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)  # noqa: SLF001
        run = self._runner(op, _packet(name), policy)

        def below_autocast(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(key):  # noqa: SLF001
                return run(*args, **kwargs)

        return below_autocast

    def _runner(self, op: Any, packet: str, policy: str) -> Kernel:
        if policy == "lower":
            return partial(self._lower, op)
        if policy == "promote":
            return partial(self._promote, op)
        if policy == "fp32" and packet in FP32_BY_DTYPE:
            return partial(_tell_dtype, op)
        if policy == "fp32" and packet == "norm":
            return _norm
        return partial(self._full, op)

    def _lower(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        return self._cast_and_run(op, torch.get_autocast_dtype("cpu"), args, kwargs)

    def _full(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        return self._cast_and_run(op, torch.float32, args, kwargs)

    def _promote(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        import torch
        from torch.utils import _pytree

        tensors = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if _is_eligible(leaf)]
        widest = any(tensor.dtype == torch.float32 for tensor in tensors)
        dtype = torch.float32 if widest else torch.get_autocast_dtype("cpu")
        return self._cast_and_run(op, dtype, args, kwargs)

    def _cast_and_run(self, op: Any, dtype: torch.dtype, args: Any, kwargs: Any) -> Any:
        args = [self._cast(arg, dtype) for arg in args]
        return op(*args, **{name: self._cast(arg, dtype) for name, arg in kwargs.items()})

    def _cast(self, arg: Any, dtype: torch.dtype) -> Any:
        """The argument in ``dtype`` where it is a floating tensor, or a list of them.

        Source: aten/src/ATen/autocast_mode.cpp (``cached_cast``).
        """
        import torch

        if isinstance(arg, (list, tuple)):
            return [self._cast(each, dtype) for each in arg]
        if not _is_eligible(arg) or arg.dtype == dtype:
            return arg
        keep = dtype == torch.get_autocast_dtype("cpu") and torch.is_autocast_cache_enabled()
        if not (keep and _keeps(arg)):
            return arg.to(dtype)
        if arg not in self.kept:
            self.kept[arg] = arg.to(dtype)
        return self.kept[arg]


def _tell_dtype(op: Any, *args: Any, **kwargs: Any) -> Any:
    """``softmax``, ``sum`` and their like: asked for float32 where no dtype was asked for."""
    import torch

    names = [argument.name for argument in op._schema.arguments]  # noqa: SLF001
    given = dict(zip(names, args, strict=False)) | kwargs
    if _is_eligible(args[0]) and given.get("dtype") is None:
        given["dtype"] = torch.float32
    return op(**given)


def _norm(tensor: torch.Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False) -> torch.Tensor:
    """The overloads of ``norm`` that cannot be told a dtype go to those that can."""
    import torch

    dtype = torch.float32 if _is_eligible(tensor) else tensor.dtype
    if dim is None:
        return torch.ops.aten.norm.ScalarOpt_dtype(tensor, p, dtype=dtype)
    return torch.ops.aten.norm.ScalarOpt_dim_dtype(tensor, p, dim, keepdim, dtype=dtype)


def _is_eligible(arg: Any) -> bool:
    import torch

    return isinstance(arg, torch.Tensor) and arg.is_floating_point() and arg.dtype != torch.float64


def _keeps(tensor: torch.Tensor) -> bool:
    return keeps_cast(
        dtype=str(tensor.dtype).removeprefix("torch."),
        is_leaf=tensor.is_leaf,
        requires_grad=tensor.requires_grad,
        is_view=tensor._is_view(),  # noqa: SLF001
    )


def _spoken(device_type: str) -> str:
    return "cpu" if device_type == "cuda" else device_type


def _listed(key: str) -> set[str]:
    """ATen ops, as ``pow.Tensor_Scalar``, for which PyTorch has a kernel under a dispatch key."""
    import torch

    names: list[str] = torch._C._dispatch_get_registrations_for_dispatch_key(key)  # noqa: SLF001
    return {name.removeprefix("aten::") for name in names if name.startswith("aten::")}


def _packet(name: str) -> str:
    return name.partition(".")[0]


def _overload(name: str) -> Any:
    import torch

    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")

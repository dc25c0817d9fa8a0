"""Values of fake tensors that the host can know: what ``.item()``, ``if mask.all()`` and ``nonzero`` ask for.

A fake tensor has no numbers, yet models read a few on the host: whether a mask has padding, how many layers a drawn
number drops, how often a label occurs. Those follow from inputs, constants and random draws, hardly ever from weights,
and are small. So small results are computed really, beside the fake: a tensor's value is known where it was made from
numbers, drawn, or computed from tensors whose values are known. Three things are assumed: a mixture's router spreads
its tokens evenly over the experts, gradients are finite, so that a scaler does not skip the step, and a norm, such as
Adafactor reads, is one: how large it is changes no shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from memprof.trace.fake_kernels import as_kernels_see
from memprof.trace.fake_kernels import kernel as fake_kernel
from memprof.trace.replaced import replaced

_VALUE = "_memprof_value"
_OVERWRITTEN = "_memprof_overwritten"
_MAX_INTEGERS = 1 << 20
_MAX_FLOATS = 1 << 10
"""More elements than these are not worth computing: nothing reads that many on the host."""
_UNINITIALIZED = {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided"}
_READING = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Inside, tensors are fake, and the host reads what it can know of them.

    Weights stay undrawn where torch would draw anew what falls out of bounds, as on the meta device. Source:
    torch 2.13 wheel, torch/nn/init.py (``_no_grad_trunc_normal_``).
    """
    with (
        replaced(torch.nn.init, "_no_grad_trunc_normal_", lambda tensor, *_, **__: tensor),
        FakeTensorMode() as fake_mode,
        HostReads(fake_mode),
    ):
        yield


class HostReads(TorchDispatchMode):
    """Answers ops that read values, where the values are known; it is entered after the fake mode.

    Args:
        fake_mode: makes the fakes of results whose shape depends on values.
    """

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        super().__init__()
        self._fake_mode = fake_mode

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled while this is on, and telling dynamo so for each op costs time

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        stand_in = fake_kernel(func)
        if stand_in is not None:
            with self:  # its own ops are answered too, and seen by none of the modes above
                return stand_in(*args, **kwargs)
        if not _all_known((args, *kwargs.values())) or func.overloadpacket.__name__ in _UNINITIALIZED:
            if func is torch.ops.aten.index.Tensor:
                args = (args[0], self._without_masks(args[1]))
            out: Any = None if _writes_lists_only(func) else func(*as_kernels_see(func, args), **kwargs)
            if func is not torch.ops.aten._amp_foreach_non_finite_check_and_unscale_.default:
                _forget_written(func, args, kwargs)
            if func is torch.ops.aten.topk.default:
                _spread_evenly(out[1], args[0].shape[args[2] if len(args) > 2 else -1])
            elif func is torch.ops.aten.linalg_vector_norm.default and not out.ndim:
                with no_dispatch():
                    setattr(out, _VALUE, torch.ones((), dtype=out.dtype))
            return out
        if any(tag in func.tags for tag in _READING):
            return tree_map_only(Tensor, self._fake, _computed(func, args, kwargs))
        out = func(*args, **kwargs)
        if all(_is_small(tensor) for tensor in _tensors(out)):
            for fake, value in zip(_tensors(out), _tensors(_computed(func, args, kwargs)), strict=True):
                setattr(fake, _VALUE, value)
        else:
            _forget_written(func, args, kwargs)
        return out

    def _fake(self, value: Tensor) -> Tensor:
        fake = self._fake_mode.from_tensor(value)
        setattr(fake, _VALUE, value)
        return fake

    def _without_masks(self, indices: Any) -> list[Any]:
        """Masks become the indices of their true elements, as the kernel itself does it."""
        out: list[Any] = []
        for index in indices:
            value = known_value(index) if index is not None and index.dtype == torch.bool else None
            if value is None:
                out.append(index)
            else:
                with no_dispatch():
                    found = value.nonzero().unbind(1)
                out += [self._fake(each.contiguous()) for each in found]
        return out


def known_value(tensor: Tensor) -> Tensor | None:
    """The numbers in a tensor, or None where they are not known."""
    if not isinstance(tensor, FakeTensor):
        return tensor if _is_small(tensor) else None
    value: Tensor | None = getattr(tensor, _VALUE, None)
    if value is None or tensor.requires_grad or hasattr(value.untyped_storage(), _OVERWRITTEN):
        return None
    return value


def _all_known(args: Iterable[Any]) -> bool:
    for arg in args:
        if isinstance(arg, Tensor):
            if known_value(arg) is None:
                return False
        elif isinstance(arg, list | tuple) and not _all_known(arg):
            return False
    return True


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    real_args, real_kwargs = tree_map_only(Tensor, known_value, (args, kwargs))
    with no_dispatch():
        out = func(*real_args, **real_kwargs)
        return out.clone() if func is torch.ops.aten.lift_fresh.default else out


def _writes_lists_only(func: Any) -> bool:
    """Whether an op writes into lists of tensors and returns nothing: no shape changes, and to check all takes long."""
    return func.namespace == "aten" and func.__name__.startswith("_foreach_") and not func._schema.returns  # noqa: SLF001


def _forget_written(func: Any, args: Any, kwargs: Any) -> None:
    """What an op of unknown values writes into is unknown from then on, in every view of it."""
    schema = func._schema  # noqa: SLF001
    if not schema.is_mutable:
        return
    given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
    for argument in schema.arguments:
        if argument.is_write:
            for tensor in _tensors(given.get(argument.name)):
                value = known_value(tensor)
                if value is not None:
                    setattr(value.untyped_storage(), _OVERWRITTEN, True)


def _spread_evenly(chosen: Tensor, num_choices: int) -> None:
    """What a router chooses follows from weights; it is taken to give each expert as many tokens as the others."""
    if _is_small(chosen):
        with no_dispatch():
            value = torch.arange(chosen.numel()).remainder(num_choices).view(chosen.shape)
        setattr(chosen, _VALUE, value)


def _is_small(tensor: Tensor) -> bool:
    return tensor.numel() <= (_MAX_FLOATS if tensor.is_floating_point() else _MAX_INTEGERS) and not tensor.requires_grad


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor)]

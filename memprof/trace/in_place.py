"""Where a real run writes in place and a traced one does not.

PyTorch's backward adds gradients in place, and fills fresh zeros in place, and attention without a fused kernel adds
its mask in place, unless a tensor is of a subclass or a dispatch mode is on: then it makes a new tensor each time.
`InPlace` tells of an op whether the real run would have written into its first argument.

Source: torch/csrc/autograd/input_buffer.cpp (``can_accumulate_inplace``), torch/csrc/autograd/FunctionsManual.cpp
(``value_selecting_reduction_backward``), aten/src/ATen/native/TensorAdvancedIndexing.cpp (``index_backward``,
``index_select_backward_symint``, ``gather_backward``), aten/src/ATen/native/transformers/attention.cpp
(``_scaled_dot_product_attention_math``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.trace.replaced import dispatcher_kernels

aten = torch.ops.aten
_in_math_attention = ContextVar("_in_math_attention", default=False)

_SELECTIONS = frozenset(f"{op}Backward0" for op in ("Max", "Min", "Sort", "Topk", "Kthvalue", "Mode")) | {
    "SortBackward1",
    "MedianBackward1",
}
_FILLS = {
    aten.index_add.default: (frozenset(("IndexSelectBackward0",)), aten.index_add_.default),
    aten.index_put.default: (frozenset(("IndexBackward0",)), aten._index_put_impl_.default),
    aten.scatter_add.default: (frozenset(("GatherBackward0",)), aten.scatter_add_.default),
    aten.scatter.src: (_SELECTIONS, aten.scatter_.src),
}
"""Ops that autograd nodes of these names call on zeros that they have just made, and what they call in a real run."""


@contextmanager
def math_attention_known() -> Iterator[None]:
    """While open, it is known which ops are those of attention without a fused kernel: its only sum is of the mask."""
    with dispatcher_kernels("AutogradCPU", {"_scaled_dot_product_attention_math": _math_attention}):
        yield


def _math_attention(*args: Any, **kwargs: Any) -> Any:
    token = _in_math_attention.set(True)
    try:
        return aten._scaled_dot_product_attention_math.default.decompose(*args, **kwargs)  # noqa: SLF001
    finally:
        _in_math_attention.reset(token)


class InPlace:
    """Answers for ops that reach a dispatch mode, from the number of references to their first argument.

    How many references a gradient has that nobody else holds is learnt from one that is known to be such.
    """

    def __init__(self) -> None:
        self._alone = _references_of_a_gradient_held_once()

    def written(self, func: Any, args: tuple[Any, ...]) -> Any:
        """The in-place op that a real run calls instead of ``func``, or None."""
        if func is aten.add.Tensor:
            return aten.add_.Tensor if _in_math_attention.get() or self._adds_up_gradients(args) else None
        if func not in _FILLS:
            return None
        nodes, in_place = _FILLS[func]
        node = torch._C._current_autograd_node()  # noqa: SLF001
        return in_place if node is not None and node.name() in nodes else None

    def _adds_up_gradients(self, args: tuple[Any, ...]) -> bool:
        """Whether autograd adds to a gradient that it alone holds, and that is dense."""
        if torch.is_grad_enabled() or torch._C._current_autograd_node() is None:  # noqa: SLF001
            return False
        gradient = args[0]
        return (
            isinstance(args[1], torch.Tensor)
            and gradient.shape == args[1].shape
            and is_non_overlapping_and_dense_or_false(gradient)
            and _references(gradient) == self._alone
        )


def _references(tensor: torch.Tensor) -> tuple[int, int]:
    """To the tensor, and to its storage."""
    storage = tensor.untyped_storage()
    return tensor._use_count(), torch._C._storage_Use_Count(storage._cdata)  # noqa: SLF001


def _references_of_a_gradient_held_once() -> tuple[int, int]:
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is aten.add.Tensor and not torch.is_grad_enabled():
                seen.append(_references(args[0]))
            return func(*args, **(kwargs or {}))

    seen: list[tuple[int, int]] = []
    with torch.enable_grad():
        tensor = torch.ones(1, requires_grad=True) * 2
        result = tensor.exp() * tensor.sin()
        with Watch():
            result.backward()
    return seen[0]

"""``model.to(...)`` on fake tensors: PyTorch swaps parameters there, which weak references to fakes forbid.

Here a parameter gets new data instead, as a real one does.
Source: torch 2.13 wheel, torch/nn/modules/module.py (``Module._apply``), torch/utils/__init__.py (``swap_tensors``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def parameters_get_new_data() -> Iterator[None]:
    """Inside, ``Module.to`` and its like work on fake parameters."""
    real = torch.nn.Module._apply  # noqa: SLF001
    torch.nn.Module._apply = _apply  # noqa: SLF001
    try:
        yield
    finally:
        torch.nn.Module._apply = real  # noqa: SLF001


def _apply(module: Any, fn: Callable[[Any], Any], recurse: bool = True) -> Any:
    if recurse:
        for child in module.children():
            child._apply(fn)  # noqa: SLF001
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            for tensor in (parameter, parameter.grad):
                applied = tensor if tensor is None else fn(tensor)
                if applied is not tensor:
                    tensor.data = applied
    for name, buffer in module.named_buffers(recurse=False):
        module._buffers[name] = fn(buffer)  # noqa: SLF001
    return module

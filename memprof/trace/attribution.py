"""Which module an op works for: the innermost one whose forward runs, or ran when the backward's node was made."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


class Attribution:
    """Follows modules by hooks, and autograd nodes by their sequence numbers, which grow with time.

    A node of the backward has the number at which its forward op ran, so the module that was innermost then is its own.

    Attributes:
        last: the module that an op worked for last, also after an exception has left it.
    """

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._owners: dict[int, str] = {}
        self._inside: list[str] = []
        self.last = ""
        self._numbers: list[int] = [0]
        self._modules: list[str] = [""]

    @property
    def inside(self) -> bool:
        """Whether a module's forward is running."""
        return bool(self._inside)

    def name(self, model: Any) -> None:
        """Takes the names of a model's modules, and whose each parameter is."""
        self._names = {id(module): name for name, module in model.named_modules()}
        self._owners = {id(p): name for name, module in model.named_modules() for p in module.parameters(recurse=False)}

    def module(self) -> str:
        """The path of the module that the op which runs now works for; empty for the model itself or none."""
        self.last = self._module()
        return self.last

    def _module(self) -> str:
        if self._inside:
            return self._inside[-1]
        node = torch._C._current_autograd_node()  # noqa: SLF001
        if node is None:
            return ""
        variable = getattr(node, "variable", None)  # of the node that adds up a parameter's gradient
        if variable is not None:
            return self._owners.get(id(variable), "")
        return self._modules[bisect_right(self._numbers, node._sequence_nr()) - 1]  # noqa: SLF001

    @contextmanager
    def following(self) -> Iterator[None]:
        """Modules are followed while this is open."""
        handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: Any, _: object) -> None:
        self._inside.append(self._names.get(id(module), self._inside[-1] if self._inside else ""))
        self._mark(self._inside[-1])

    def _leave(self, *_: object) -> None:
        self._inside.pop()
        self._mark(self._inside[-1] if self._inside else "")

    def _mark(self, module: str) -> None:
        number = torch.autograd._get_sequence_nr()  # noqa: SLF001
        if number == self._numbers[-1]:
            self._modules[-1] = module
        else:
            self._numbers.append(number)
            self._modules.append(module)

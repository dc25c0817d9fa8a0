"""Putting something else in the place of a PyTorch function for a while."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """While open, the attribute of a module or class is ``value``."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def replaced_item(table: dict[Any, Any], key: Any, value: Any) -> Iterator[None]:
    """While open, a dictionary has ``value`` under a key that it has already."""
    original = table[key]
    table[key] = value
    try:
        yield
    finally:
        table[key] = original


@contextlib.contextmanager
def dispatcher_kernels(key: str, kernels: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """While open, PyTorch's dispatcher runs these for ATen ops (``pow.Tensor_Scalar``) under a dispatch key.

    The whole process is affected, every thread of it.
    """
    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
            for name, kernel in kernels.items():
                library.impl(name, kernel, key, allow_override=True)
        yield
    finally:
        library._destroy()  # noqa: SLF001

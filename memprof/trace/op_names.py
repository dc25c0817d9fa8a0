"""The name under which an op goes that stands for another: the CUDA kernel whose allocations are being played."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_STANDS_FOR: ContextVar[str | None] = ContextVar("stands_for", default=None)


@contextlib.contextmanager
def standing_for(name: str) -> Iterator[None]:
    """Ops that run while this is open are parts of the op ``name`` (``aten::_scaled_dot_product_flash_attention``)."""
    token = _STANDS_FOR.set(name)
    try:
        yield
    finally:
        _STANDS_FOR.reset(token)


def stands_for() -> str | None:
    """The op that the running one is a part of, or None."""
    return _STANDS_FOR.get()

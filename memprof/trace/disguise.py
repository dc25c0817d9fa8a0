"""Libraries look for fake tensors and then take the way they take when a graph is exported; a real run does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fakes_look_real() -> Iterator[None]:
    """Inside, transformers takes fake tensors for real ones.

    Source: transformers 5.23 wheel, utils/import_utils.py (``is_tracing``): masks are then always made, and grouped
    heads always repeated.
    """
    try:
        from transformers.utils import import_utils
    except ImportError:
        yield
        return
    asked = getattr(import_utils, "is_fake_tensor", None)
    if asked is None:
        yield
        return
    import_utils.is_fake_tensor = lambda _: False
    try:
        yield
    finally:
        import_utils.is_fake_tensor = asked

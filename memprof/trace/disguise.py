"""Libraries look for fake tensors and then take the way they take when a graph is exported; a real run does not."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOUD = ("torch._subclasses.fake_tensor", "transformers", "bitsandbytes", "accelerate")


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


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside, libraries keep to themselves what they would tell someone who trains: logs and warnings."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def code_tables_apart() -> Iterator[None]:
    """Inside, bitsandbytes makes its tables of 8-bit codes anew, and it keeps no fake one afterwards."""
    try:
        from bitsandbytes.functional import name2qmap
    except ImportError:
        yield
        return
    kept = dict(name2qmap)
    name2qmap.clear()
    try:
        yield
    finally:
        name2qmap.clear()
        name2qmap.update(kept)

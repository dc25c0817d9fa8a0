"""memprof: how much GPU memory a PyTorch or Hugging Face step will take, why, and what to change so that it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memprof.integrations.trainer_callback import MemprofCallback as MemprofCallback
    from memprof.integrations.watch import watch as watch

__version__ = "0.1.0"
_LAZY = {"watch": "memprof.integrations.watch", "MemprofCallback": "memprof.integrations.trainer_callback"}


def __getattr__(name: str) -> Any:
    """Integrations are imported when they are asked for, so that the command stays light."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)

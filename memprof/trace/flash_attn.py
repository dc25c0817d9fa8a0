"""The flash-attn library as transformers calls it, on fake tensors: installed or not, its function is played."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from memprof.errors import UnsupportedError
from memprof.semantics.device import Semantics
from memprof.trace.attention import flash_attn_func
from memprof.trace.replaced import replaced, replaced_item

_VERSION = 2


@contextmanager
def flash_attn_library(sem: Semantics) -> Iterator[None]:
    """While open, transformers finds the library, whose function allocates and saves what it does on the device.

    Source: transformers 5.23 wheel: modeling_utils.py (``_flash_attn_can_dispatch``), modeling_flash_attention_utils.py
    (``lazy_import_flash_attention``). Padded and packed sequences, which call another function, are not played.

    Raises:
        UnsupportedError: the installed transformers looks for the library in another way.
    """
    import transformers
    from transformers import modeling_flash_attention_utils as utils
    from transformers import modeling_utils

    checks: dict[int, Any] = getattr(utils, "FLASH_ATTENTION_COMPATIBILITY_MATRIX", {})
    if _VERSION not in checks or not hasattr(modeling_utils, "lazy_import_flash_attention"):
        raise UnsupportedError(
            f"the trace engine does not run flash-attn with transformers {transformers.__version__}",
            "update transformers, or use --engine analytic",
        )
    found = {**checks[_VERSION], "general_availability_check": _yes, "supported_devices": ((_yes, "cuda"),)}
    imported = _imported(sem, utils)
    with ExitStack() as stack:
        stack.enter_context(replaced_item(checks, _VERSION, found))
        for module in (utils, modeling_utils):
            stack.enter_context(replaced(module, "lazy_import_flash_attention", lambda *_, **__: imported))
        yield


def _yes() -> bool:
    return True


def _imported(sem: Semantics, utils: Any) -> tuple[tuple[Callable[..., Any] | None, ...], tuple[Any, Any]]:
    """What ``lazy_import_flash_attention`` answers: functions, and what makes their arguments."""

    def function(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        deterministic: bool = False,
    ) -> torch.Tensor:
        return flash_attn_func(sem, q, k, v, dropout_p, causal)

    def not_played(*_: Any, **__: Any) -> torch.Tensor:
        raise UnsupportedError(
            "the trace engine does not run flash-attn over padded or packed sequences", "use attention: sdpa"
        )

    arguments = utils._lazy_define_process_function(function)  # noqa: SLF001
    return (function, not_played, None, not_played, not_played), (arguments, dict)

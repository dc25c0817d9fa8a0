"""PyTorch's own attention kept to the kernel that a scenario names."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

_BACKENDS = {
    "sdpa-flash": "FLASH_ATTENTION",
    "sdpa-efficient": "EFFICIENT_ATTENTION",
    "sdpa-cudnn": "CUDNN_ATTENTION",
    "sdpa-math": "MATH",
}
"""Source: torch 2.13 wheel: torch/nn/attention/__init__.py (SDPBackend)."""


def only_kernel(attention: str) -> AbstractContextManager[None]:
    """While open, attention may take no kernel but the one that ``sdpa-flash`` and its like name; else any.

    A kernel that cannot run raises when it is called.
    """
    if attention not in _BACKENDS:
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(getattr(SDPBackend, _BACKENDS[attention]))

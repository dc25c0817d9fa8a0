"""What every test can rely on: no network, one thread a worker, no allocator settings, GPU tests skip themselves."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
from hypothesis import settings

# Set before a test imports torch or transformers, which read them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "FORCE_COLOR"):
    os.environ.pop(name, None)

# No deadline: machines that are shared are slow at times. In CI a red test is the change's doing, not the draw's.
settings.register_profile("memprof", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("memprof")


def _why_no_gpu() -> str | None:
    if find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` where there is none; torch is only imported where such a test was collected."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    reason = _why_no_gpu() if on_gpu else None
    if reason is not None:
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason=reason))

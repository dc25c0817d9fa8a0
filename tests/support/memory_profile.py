"""PyTorch's profiler over memory, with Python's garbage collector kept out of what it sees."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from torch.profiler import ProfilerActivity, profile


@contextmanager
def memory_profile() -> Iterator[profile]:
    """Records CPU allocations; tensors of earlier tests that die in cycles are not freed meanwhile.

    Where the code inside collects garbage itself, as transformers' Trainer does, collect before: the profiler counts
    the end of any tensor that began under any earlier profile.
    """
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            yield record
    finally:
        gc.enable()

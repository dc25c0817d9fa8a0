"""The random generator's state: a host tensor of 5,056 bytes that checkpointing keeps for each block on the CPU.

It is filled by the generator itself, below dispatch, so that no mode sees it.
Source: torch 2.13 wheel, torch/random.py (``get_rng_state``), torch/utils/checkpoint.py (``preserve_rng_state``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from memprof.trace.recorder import Recorder


@contextmanager
def rng_states_seen(recorder: Recorder) -> Iterator[None]:
    """Inside, each state that is asked for is a block."""
    import torch

    ask = torch.get_rng_state

    def asked() -> Any:
        state = ask()
        recorder.op("get_rng_state")
        recorder.see(state)
        return state

    torch.get_rng_state = asked
    try:
        yield
    finally:
        torch.get_rng_state = ask

"""The allocator's history on a CUDA device, written as a tape at the moment of an out-of-memory error.

Source: https://pytorch.org/blog/understanding-gpu-memory-1/ (an observer of out-of-memory errors).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from memprof.errors import UsageError

_HISTORY_EVENTS = 1_000_000
_log = logging.getLogger("memprof")


def arm(path: str, *, on_cuda: bool) -> None:
    """From here on, the first out-of-memory error of this process leaves its history at ``path``.

    A CPU's allocator keeps no history, so there is nothing to write; the log says so.

    Raises:
        UsageError: something is at ``path`` already.
    """
    if not on_cuda:
        _log.warning("on a CPU there is no allocator history, so no tape is written after an out-of-memory error")
        return
    if Path(path).exists():
        raise UsageError(f"{path} is there already", "name another tape, or move it away")
    import torch

    def observe(*_: Any) -> None:
        if not Path(path).exists():
            from memprof.measure.cuda import write_history

            write_history(path)
            _log.error("out of memory: what held it is in %s; see memprof snapshot %s", path, path)

    torch.cuda.memory._record_memory_history(max_entries=_HISTORY_EVENTS)  # noqa: SLF001
    torch._C._cuda_attach_out_of_memory_observer(observe)  # noqa: SLF001

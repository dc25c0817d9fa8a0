"""What a running step really takes, cheap enough to be asked each time.

On CUDA the caching allocator's own peaks; on a CPU, where nothing counts tensors for free, the peak of the process'
resident memory, in which the interpreter and libraries are too.

Source: https://docs.kernel.org/filesystems/proc.html (``VmHWM``; writing 5 to ``clear_refs`` resets it).
"""

from __future__ import annotations

import resource
from pathlib import Path

import msgspec

_KIB = 1024
_STATUS, _CLEAR, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs"), "5"


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """Peaks since the last reset, bytes; None where the device has no such thing."""

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    resident_bytes: int | None = None


def reset(*, on_cuda: bool) -> None:
    """Peaks are counted from here."""
    if on_cuda:
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    try:
        _CLEAR.write_text(_RESET)
    except OSError:  # not Linux, or forbidden: the peak is then that of the whole process
        return


def used(*, on_cuda: bool) -> Used:
    """The peaks."""
    if not on_cuda:
        return Used(resident_bytes=_resident())
    import torch

    return Used(allocated_bytes=torch.cuda.max_memory_allocated(), reserved_bytes=torch.cuda.max_memory_reserved())


def _resident() -> int:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
    return next(int(line.split()[1]) * _KIB for line in lines if line.startswith("VmHWM:"))

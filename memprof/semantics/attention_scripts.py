"""From a kernel's name to the script of what it allocates."""

from __future__ import annotations

from collections.abc import Callable

from memprof.semantics.attention import AttentionCall, Kernel, Script
from memprof.semantics.attention_cpu import flash_cpu
from memprof.semantics.attention_cuda import cudnn, efficient
from memprof.semantics.attention_flash import flash, flash_attn
from memprof.semantics.attention_math import math
from memprof.semantics.device import Semantics

_SCRIPTS: dict[Kernel, Callable[[Semantics, AttentionCall], Script]] = {
    "cudnn": cudnn,
    "flash": flash,
    "efficient": efficient,
    "math": math,
    "flash-cpu": flash_cpu,
    "flash-attn": flash_attn,
}


def attention_script(sem: Semantics, kernel: Kernel, call: AttentionCall) -> Script:
    """What ``kernel`` (as ``choose`` names it) allocates, saves and frees for ``call``."""
    return _SCRIPTS[kernel](sem, call)

"""Collectives on the CPU, so that a run takes the same memory each time: real ones are waited for, fake ones filled up.

Source: https://github.com/pytorch/pytorch/blob/main/torch/csrc/distributed/c10d/ProcessGroupGloo.cpp (runLoop).
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.distributed.distributed_c10d import Work
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.semantics.gloo import COLLECTIVES, scratch_bytes

_WAITED_FOR = COLLECTIVES | {"allreduce_"}
_LET_GO_S = 0.01


class Patient(TorchDispatchMode):
    """Gloo's thread lets go of its tensors a moment after a collective is done; what follows waits for that."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "c10d" and func.overloadpacket.__name__ in _WAITED_FOR:
            Work.unbox(out[-1] if isinstance(out, tuple) else out).wait()
            time.sleep(_LET_GO_S)
        return out


class Scratch(TorchDispatchMode):
    """A fake group's collective makes and drops the block that gloo's would."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in COLLECTIVES:
            output, given = (args[0], args[1]) if isinstance(args[1], torch.Tensor) else (out, args[0])
            torch.empty(scratch_bytes(name, given.nbytes, output.nbytes), dtype=torch.uint8)
        return out

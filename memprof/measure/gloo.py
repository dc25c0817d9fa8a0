"""Collectives on the CPU, so that a run takes the same memory each time: real ones are waited for, fake ones filled up.

Both are put around the ops in PyTorch's dispatcher. A dispatch mode would see them too, but while one is on autograd
adds gradients up in new tensors instead of in place (``can_accumulate_inplace``).

Source: https://github.com/pytorch/pytorch/blob/main/torch/csrc/distributed/c10d/ProcessGroupGloo.cpp (runLoop),
https://github.com/pytorch/pytorch/blob/main/torch/csrc/autograd/input_buffer.cpp.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.distributed.distributed_c10d import Work

from memprof.semantics.gloo import COLLECTIVES, scratch_bytes

_LET_GO_S = 0.01

After = Callable[[str, tuple[Any, ...], Any], None]
"""Told of a collective that has been called: its name, its arguments, what it returned."""


@contextmanager
def patient() -> Iterator[None]:
    """Gloo's thread lets go of its tensors a moment after a collective is done; while open, what follows waits."""
    with _after((*COLLECTIVES, "allreduce_"), _wait):
        yield


@contextmanager
def scratch() -> Iterator[None]:
    """While open, a fake group's collective makes and drops the block that gloo's would."""
    with _after(COLLECTIVES, _make_scratch):
        yield


def _wait(_: str, __: tuple[Any, ...], out: Any) -> None:
    Work.unbox(out[-1] if isinstance(out, tuple) else out).wait()
    time.sleep(_LET_GO_S)


def _make_scratch(name: str, args: tuple[Any, ...], out: Any) -> None:
    output, given = (args[0], args[1]) if isinstance(args[1], torch.Tensor) else (out, args[0])
    torch.empty(scratch_bytes(name, given.nbytes, output.nbytes), dtype=torch.uint8)


@contextmanager
def _after(names: Iterable[str], told: After) -> Iterator[None]:
    libraries = []
    for namespace in ("c10d", "_c10d_functional"):
        library = torch.library.Library(namespace, "IMPL")
        libraries.append(library)
        for name in names:
            if packet := getattr(getattr(torch.ops, namespace), name, None):
                library.impl(name, partial(_call, packet.default, told), "AutogradCPU", allow_override=True)
    try:
        yield
    finally:
        for library in libraries:
            library._destroy()  # noqa: SLF001


def _call(op: Any, told: After, *args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001
        out = op(*args)
        told(op.overloadpacket.__name__, args, out)
    return out

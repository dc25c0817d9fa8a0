"""torchao's compiled updates on fake tensors: what they allocate is played, as nothing is compiled there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from memprof.semantics.device import Semantics
from memprof.semantics.optimizer_program import Parameter, Pass, play
from memprof.semantics.optimizer_torchao import Bits, update_of
from memprof.trace.recorder import Recorder, plain_tensors
from memprof.trace.replaced import replaced


@contextmanager
def torchao_updates(recorder: Recorder, bits: Bits, semantics: Semantics) -> Iterator[None]:
    """While open, ``torch.compile`` of torchao's update of a parameter gives one that plays the compiled code's blocks.

    To be entered where tensors are real: torchao makes its code tables once, of tensors, and reads them.

    Source: torchao 0.18 wheel, optim/adam.py (``_AdamBase.step``), optim/subclass_8bit.py (``get_qmap_signed``).
    """
    try:
        from torchao.optim import adam, subclass_4bit, subclass_8bit
    except ImportError:
        yield
        return
    for module in (subclass_4bit, subclass_8bit):
        module.get_qmap_signed()
        module.get_qmap_unsigned()
    program = (Pass("each", update_of(bits, semantics.kind)),)
    compile_anything = torch.compile

    def update(parameter: Any, *_: Any) -> None:
        (local,) = plain_tensors(parameter)
        dtype = str(local.dtype).removeprefix("torch.")
        blocks: dict[int, int] = {}
        for event in play(program, [Parameter(tuple(local.shape), dtype)]):
            if event.action == "alloc":
                blocks[event.key] = recorder.born(event.num_bytes)
            else:
                recorder.dies(blocks.pop(event.key))

    def compiled(function: Any = None, **settings: Any) -> Any:
        return update if function is adam.single_param_adam else compile_anything(function, **settings)

    with (
        replaced(torch, "compile", compiled),
        _table_on_device(subclass_4bit.OptimState4bit),
        _table_on_device(subclass_8bit.OptimState8bit),
    ):
        yield


@contextmanager
def _table_on_device(kind: Any) -> Iterator[None]:
    """While open, states of this kind have their code table on the device, to which ``torch.tensor`` copies it."""
    make = kind.zeros

    def zeros(*args: Any, **kwargs: Any) -> Any:
        state = make(*args, **kwargs)
        state.qmap = torch.empty_like(state.qmap, device=state.device)
        return state

    with replaced(kind, "zeros", zeros):
        yield

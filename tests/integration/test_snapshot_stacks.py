"""Stacks as PyTorch itself gathers them, on the CPU, read for phase, module and source line."""

from __future__ import annotations

from typing import Any

import torch
from torch._C._profiler import gather_traceback, symbolize_tracebacks
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.measure.recording import Site
from memprof.measure.sites import read_site
from memprof.measure.snapshot_pickle import Frame


class Gather(TorchDispatchMode):
    """Notes the site of every ATen call by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Site] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        (frames,) = symbolize_tracebacks([gather_traceback(python=True, script=True, cpp=False)])
        stack = [Frame(frame["filename"], frame["line"], frame["name"]) for frame in frames]
        inside = next(index for index, frame in enumerate(stack) if frame.name == "__torch_dispatch__")
        self.sites.setdefault(func.overloadpacket.__name__, read_site(tuple(stack[inside + 1 :])))
        return func(*args, **(kwargs or {}))


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def test_a_real_step_is_read_phase_by_phase() -> None:
    model = Net().to(torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    with Gather() as gathered:
        loss = model(torch.ones(2, 4, dtype=torch.float64)).sum()
        loss.backward()
        optimizer.step()
        model.to(torch.float32)
    sites = gathered.sites
    forward = sites["addmm"]
    assert forward.phase == "forward"
    assert forward.module.startswith("test_snapshot_stacks.py:")
    assert forward.module.endswith(" linear")
    assert forward.source.endswith(" forward")
    assert sites["sum"].phase == ""  # a loss outside any module
    assert sites["sum"].source.startswith("test_snapshot_stacks.py:")
    assert sites["mm"].phase == "backward"
    assert sites["addcdiv_"].phase == "optimizer"
    assert (sites["_to_copy"].phase, sites["_to_copy"].component) == ("load", "weights")

"""The loop that a scenario's mode asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from memprof.model.scenario import Scenario
from memprof.workload.deepspeed import STAGES, ZeroLoop, initialized
from memprof.workload.inference import InferenceLoop
from memprof.workload.loop import TrainingLoop, Watcher
from memprof.workload.optimizers import make_optimizer
from memprof.workload.workload import Workload


def loop_of(
    workload: Workload, scenario: Scenario, watcher: Watcher, autocast: Callable[[str], AbstractContextManager[Any]]
) -> TrainingLoop | InferenceLoop:
    """Training with a new optimizer, or inference; ``autocast`` as in ``TrainingLoop``.

    Raises:
        MemprofError: the optimizer cannot be made.
    """
    if scenario.mode == "inference":
        return InferenceLoop(workload, scenario, watcher, autocast)
    optimizer = make_optimizer(scenario.optimizer, workload.model.parameters())
    if scenario.parallelism.strategy not in STAGES:
        return TrainingLoop(workload, optimizer, scenario, watcher, autocast)
    return ZeroLoop(*initialized(workload, optimizer, scenario), scenario, watcher, autocast)


def autocast_on(device_type: str) -> Callable[[str], AbstractContextManager[Any]]:
    """PyTorch's own autocast of a device, by the name of a dtype."""

    def autocast(dtype: str) -> AbstractContextManager[Any]:
        import torch

        return torch.autocast(device_type, dtype=getattr(torch, dtype))

    return autocast

"""What a scenario asks for around its model beside the loop, and what a loop shows when it has stepped."""

from __future__ import annotations

from typing import Any

from memprof.errors import UnsupportedError
from memprof.model.scenario import Scenario
from memprof.workload.inference import InferenceLoop
from memprof.workload.loop import TrainingLoop
from memprof.workload.parallel import world_size
from memprof.workload.workload import Workload


def refuse_unmeasured(scenario: Scenario) -> None:
    """One error for each thing that a scenario can say and a real run does not do; ranks are refused elsewhere.

    Raises:
        UnsupportedError: always says which field.
    """
    for what, is_asked in {"offload": bool(scenario.offload), "loss fused": scenario.loss == "fused"}.items():
        if is_asked:
            raise UnsupportedError(f"verify does not run {what}", "leave it out")


def compiled(workload: Workload, scenario: Scenario) -> Workload:
    """The workload, its model's calls compiled where the scenario says so."""
    if scenario.compile is not None:
        workload.model.compile(mode=scenario.compile.mode, dynamic=scenario.compile.dynamic or None)
    return workload


def step_always(loop: TrainingLoop | InferenceLoop, scenario: Scenario, device_type: str) -> None:
    """Where gathered weights mean nothing, a loop's gradient scaler must not skip steps for what gradients hold."""
    import torch

    class Scaler(torch.amp.GradScaler):
        def _maybe_opt_step(self, optimizer: Any, _: Any, *args: Any, **kwargs: Any) -> Any:
            return optimizer.step(*args, **kwargs)

    if world_size(scenario.parallelism) > 1 and loop.scaler is not None:
        loop.scaler = Scaler(device_type)


def component_bytes(loop: TrainingLoop | InferenceLoop, device_type: str) -> dict[str, int]:
    """What a loop that has stepped shows apart: the optimizer's states on the device, each storage once."""
    import torch

    from memprof.measure.meters import storage_bytes

    if loop.optimizer is None:
        return {}
    values = (value for state in loop.optimizer.state.values() for value in state.values())
    on_device = (value for value in values if isinstance(value, torch.Tensor) and value.device.type == device_type)
    return {"optimizer_states": storage_bytes(on_device)}

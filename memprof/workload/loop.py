"""The step as people write it: forward, loss, backward, clipping, optimizer, zero_grad; or prefill and decode.

Who runs it follows through ``Watcher``: a new phase begins, a stage is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from memprof.model.scenario import Scenario
from memprof.model.timeline import Phase
from memprof.semantics.precision import plan
from memprof.workload.workload import Workload


class Watcher(Protocol):
    """Follows a loop."""

    def phase(self, phase: Phase) -> None:
        """What follows belongs to this phase."""


class TrainingLoop:
    """One optimizer step at a time, with the scenario's accumulation, clipping, scaler and order of ``zero_grad``.

    Attributes:
        outputs: what the model returned last, where ``loop.keep_outputs`` says that it is kept.
    """

    def __init__(
        self,
        workload: Workload,
        optimizer: Any,
        scenario: Scenario,
        watcher: Watcher,
        autocast: Callable[[str], AbstractContextManager[Any]],
    ) -> None:
        """``autocast`` makes the context of a forward in a given dtype: the device's own, or one that stands for it."""
        rows = plan(scenario.precision, scenario.parallelism.strategy)
        self.workload, self.optimizer, self.watcher = workload, optimizer, watcher
        self.loop, self.micro_steps = scenario.loop, scenario.batch.gradient_accumulation_steps
        self.autocast = lambda: autocast(rows.compute) if rows.autocast else nullcontext()
        self.scaler = _grad_scaler(workload.model) if rows.scaler == "torch" else None
        self.outputs: Any = None
        self.kept_loss: Any = None

    def step(self, batch: Mapping[str, Any] | tuple[Any, ...]) -> None:
        """One whole step over ``batch``, taken again for each micro-step."""
        if self.loop.zero_grad == "start":
            self.watcher.phase(Phase.OPTIMIZER)
            self.optimizer.zero_grad()
        for _ in range(self.micro_steps):
            self._micro_step(batch)
        self._update()
        if self.loop.zero_grad == "after_step":
            self.optimizer.zero_grad()

    def _micro_step(self, batch: Mapping[str, Any] | tuple[Any, ...]) -> None:
        self.watcher.phase(Phase.FORWARD)
        with self.autocast():
            outputs = self.workload.forward(batch)
            loss = self.workload.loss(outputs, batch)
        if self.loop.keep_outputs:
            self.outputs, self.kept_loss = outputs, loss
        del outputs
        if self.micro_steps > 1:
            loss = loss / self.micro_steps
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        self.watcher.phase(Phase.BACKWARD)
        self._backward(loss)

    def _backward(self, loss: Any) -> None:
        loss.backward()

    def _update(self) -> None:
        import torch

        self.watcher.phase(Phase.OPTIMIZER)
        if self.loop.clip_grad_norm is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.workload.model.parameters(), self.loop.clip_grad_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()


def _grad_scaler(model: Any) -> Any:
    """For the device that the weights are on, which in a trace is the CPU."""
    import torch

    return torch.amp.GradScaler(next(model.parameters()).device.type)

from __future__ import annotations

from typing import Any

import pytest
import torch

from memprof.allocator import folded
from memprof.measure import cpu
from memprof.model.scenario import Batch, Loop, Optimizer, Scenario
from memprof.model.timeline import Phase
from memprof.trace.engine import trace
from memprof.workload.loop import TrainingLoop
from memprof.workload.loops import autocast_on, loop_of
from memprof.workload.workload import Workload
from tests.support.referee import CPU

SCALED = Scenario(
    model="linear",
    device="cpu",
    precision="fp16-mixed",
    batch=Batch(gradient_accumulation_steps=2),
    optimizer=Optimizer(name="adamw", implementation="for-loop"),
    loop=Loop(clip_grad_norm=1.0),
)
NUMBER_BYTES = 8 + 4
"""A Python number while it is added or multiplied: a tensor in float64, and cast. The trace sees none."""


class Phases(list[Phase]):
    def phase(self, phase: Phase) -> None:
        self.append(phase)


def linear(device: str = "cpu") -> Workload:
    inputs = (torch.ones(16, 24, device=device),)
    model = torch.nn.Linear(24, 32, device=device)
    return Workload(model=model, batch=lambda: inputs, loss=lambda outputs, _: outputs.float().mean())


def loop(scenario: Scenario, device: str = "cpu") -> Any:
    return loop_of(linear(device), scenario, Phases(), autocast_on("cpu"))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_scaler_is_of_the_device_that_the_weights_are_on(device: str) -> None:
    assert loop(SCALED, device).scaler._device == device


def test_no_other_precision_has_a_scaler() -> None:
    assert loop(Scenario(model="linear", device="cpu", precision="bf16-mixed")).scaler is None


def test_a_scaled_step_allocates_for_real_what_its_trace_says() -> None:
    peaks = folded.peaks(trace(linear, SCALED, CPU).timeline)
    traced, real = peaks.phases | peaks.stages, cpu.measure(linear, SCALED).phase_peak_bytes
    assert real.keys() == traced.keys()
    assert all(0 <= real[name] - traced[name] <= NUMBER_BYTES for name in real)


def test_a_step_goes_forward_and_back_for_each_micro_batch() -> None:
    trained = loop(SCALED)
    before = trained.workload.model.weight.detach().clone()
    trained.step(trained.workload.batch())
    assert trained.watcher == [Phase.FORWARD, Phase.BACKWARD] * 2 + [Phase.OPTIMIZER]
    assert not torch.equal(trained.workload.model.weight, before)
    assert trained.workload.model.weight.grad is None


def test_inference_has_nothing_that_trains() -> None:
    answering = loop(Scenario(model="linear", device="cpu", mode="inference", precision="fp16-mixed"))
    assert not isinstance(answering, TrainingLoop)
    assert answering.optimizer is None
    assert answering.scaler is None

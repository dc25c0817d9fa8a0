"""Steps with ``loss: chunked`` on the CPU: the trace and the engine beside PyTorch's own events."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest

from memprof.model.scenario import Adapter, Batch, Loop, Optimizer, Scenario
from memprof.workload.build import build
from memprof.workload.workload import Workload
from tests.integration import test_analytic_activations as activations
from tests.integration import test_analytic_peaks as peaks
from tests.support import draws
from tests.support.real_step import real_step, traced_peaks
from tests.support.referee import Case, measured_peaks, predicted_peaks

FAMILIES = pytest.mark.parametrize("family", draws.FAMILIES)
SHAPES = ((1, 2), (1, 9), (2, 5), (3, 34), (5, 17))
"""Labels: one, as many as chunks, and numbers that 8 does not divide."""
LEFT_OUT = 300
"""Bytes: scalars in host memory that no trace has, whatever the loss; at most 220 in 75 drawn steps."""


class Run(NamedTuple):
    """A small model, and how a step of it runs on both sides."""

    config: dict[str, Any]
    scenario: Scenario

    def workload(self) -> Workload:
        return build(self.scenario, self.config)


def drawn(draw: random.Random, family: str) -> Run:
    batch, length = draw.choice(SHAPES)
    scenario = Scenario(
        model="small",
        task="causal-lm",
        device="cpu",
        loss="chunked",
        precision=draw.choice(peaks.PRECISIONS),  # type: ignore[arg-type]
        checkpointing=draw.choice(("none", "full")),  # type: ignore[arg-type]
        batch=Batch(
            micro_batch_size=batch, sequence_length=length, gradient_accumulation_steps=draw.choice((1, 2))
        ),
        optimizer=Optimizer(name=draw.choice(("adamw", "sgd")), implementation="for-loop"),
        adapter=Adapter(rank=4) if draw.random() < 0.3 else None,
        loop=Loop(dropout=0.0),
    )  # fmt: skip
    return Run(draws.config(draw, family), scenario)


@FAMILIES
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning", "ignore:fan_in_fan_out:UserWarning")
def test_the_trace_of_a_step_has_the_peaks_of_the_real_one(family: str) -> None:
    run = drawn(draws.drawer(), family)
    traced = traced_peaks(run)
    for name, measured in real_step(run).peaks().items():
        assert traced[name] == pytest.approx(measured, rel=peaks.REL, abs=LEFT_OUT), (name, str(run))


@FAMILIES
@pytest.mark.parametrize(("batch", "length"), SHAPES)
def test_the_engine_has_the_peaks_of_the_real_step(family: str, batch: int, length: int) -> None:
    draw = draws.drawer()
    precision, checkpointing = draw.choice(peaks.PRECISIONS), draw.choice(("none", "full"))
    config = draws.config(draw, family) | {"vocab_size": 900}
    case = Case(config, batch, length, precision, checkpointing=checkpointing, accumulate=2, loss="chunked")
    for predicted, measured in zip(predicted_peaks(case), measured_peaks(case), strict=True):
        assert predicted == pytest.approx(measured, rel=peaks.REL, abs=peaks.ABS), str(case)


@FAMILIES
def test_the_engine_saves_what_autograd_saves(family: str) -> None:
    draw = draws.drawer()
    for precision in peaks.PRECISIONS:
        batch, length = draw.choice(SHAPES[1:])  # of which no chunk is empty, for that is a storage too
        activations.compare_case(Case(draws.config(draw, family), batch, length, precision, loss="chunked"))

"""LoRA steps predicted by the analytic engine, against the same steps of PEFT on the CPU."""

from __future__ import annotations

from itertools import product

import pytest

from memprof.allocator import folded
from tests.support.adapted import (
    ALL_LINEAR,
    Case,
    kept_bytes,
    measured_peaks,
    played,
    predicted_peaks,
    real_model,
    training_step,
    unrolled_peak,
)

CASES = [
    Case(family, precision, targets=targets, dropout=dropout, checkpointing=checkpointing)
    for family, precision, checkpointing in product(("llama", "gpt2"), ("fp32", "bf16", "bf16-mixed"), ("none", "full"))
    for targets, dropout in ((None, 0.0), (ALL_LINEAR[family], 0.1))
]
# PEFT's own call
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def named(case: Case) -> str:
    return f"{case.family}-{case.precision}-{case.checkpointing}-{'all' if case.targets else 'default'}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_an_adapted_step_keeps_and_needs_what_pefts_does(case: Case) -> None:
    model, play = real_model(case), played(case)
    assert play.num_trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    forward, step = training_step(case, model)
    assert sum(s.num_bytes * s.count for s in play.saved) == kept_bytes(model, forward)
    predicted = predicted_peaks(play.timeline)
    assert (predicted["first_step"], predicted["step"]) == pytest.approx(measured_peaks(step), rel=0.001)
    assert unrolled_peak(play.timeline) == folded.peaks(play.timeline).num_bytes

"""What a step holds all the time does not depend on how its loop is written."""

from __future__ import annotations

from typing import Any

import pytest

from memprof import api
from memprof.model.decode import decode

GPT2 = 124_439_808
TENSORS = 148


@pytest.mark.parametrize(
    "loop",
    [
        {},
        {"loop": {"keep_outputs": True}},
        {"loop": {"keep_outputs": True, "zero_grad": "start"}},
        {"batch": {"gradient_accumulation_steps": 3}},
    ],
)
def test_weights_gradients_and_states_are_counted_once(loop: dict[str, Any]) -> None:
    result = api.estimate(decode({"model": "gpt2", "precision": "bf16", **loop}))
    assert result.persistent_bytes == {
        "weights": 2 * GPT2,
        "gradients": 2 * GPT2,
        "optimizer_states": 4 * GPT2 + 4 * TENSORS,  # two moments, and a step counter on the device for each tensor
    }


def test_kept_outputs_are_alive_beside_the_next_forward() -> None:
    """The logits of the last step, (1, 1024, 50257) in bfloat16, and a step that can be repeated for good."""
    usual, kept = (
        api.estimate(decode({"model": "gpt2", "precision": "bf16", "loop": {"keep_outputs": keep}}))
        for keep in (False, True)
    )
    assert kept.peak.requested_bytes - usual.peak.requested_bytes == 1024 * 50257 * 2

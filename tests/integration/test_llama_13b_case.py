"""The classic sum for a 13B model on one 80 GB card, step by step, and where it goes wrong.

The sum as it is told: 26 GB of weights, 26 GB of gradients and 104 GB of Adam states make 156 GB, which does not fit;
8-bit Adam brings 104 GB to 26; "with checkpointing it is about 70 GB and fits". The last step is wrong: what 8-bit Adam
leaves is 78.5 GB, and checkpointing touches none of it. It fits an A100 of 79.25 GiB for another reason: GB are
not GiB, and what comes on top at batch 1 is less than what is left.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memprof.__main__ import main

SCENARIOS = Path(__file__).parents[2] / "scenarios"
CASE = SCENARIOS / "llama-13b-a100.yaml"
PARAMETERS = 13_015_864_320
GB, GIB = 10**9, 2**30
STOPS_FITTING = 7
"""The first micro-batch of 2048 tokens whose reserved bytes are more than the card has."""


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Any:
    """What ``memprof estimate --json`` prints for the case with some settings changed."""

    def estimate(*flags: str, scenario: Path = CASE) -> dict[str, Any]:
        assert main(["estimate", "--scenario", str(scenario), *flags, "--json"]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return estimate


def test_weights_gradients_and_float32_states_are_156_gb_and_do_not_fit(ask: Any) -> None:
    result = ask("--optimizer", "adamw", "--set", "optimizer.state_dtype=float32")
    kept = result["persistent_bytes"]
    assert result["num_parameters"] == result["num_trainable_parameters"] == PARAMETERS
    assert kept["weights"] == kept["gradients"] == 2 * PARAMETERS
    assert kept["optimizer_states"] == pytest.approx(8 * PARAMETERS, abs=8)  # and a count of steps
    assert [round(kept[part] / GB) for part in ("weights", "gradients", "optimizer_states")] == [26, 26, 104]
    assert round(sum(kept.values()) / GB) == 156
    assert result["verdict"]["status"] == "does_not_fit"


def test_eight_bit_adam_brings_104_gb_to_26(ask: Any) -> None:
    """Two bytes a parameter, two float32 scales a block of 256, and the two tables that translate the codes."""
    states = ask()["persistent_bytes"]["optimizer_states"]
    assert states == 2 * PARAMETERS + PARAMETERS // 256 * 2 * 4 + 2 * 256 * 4
    assert round(states / GB) == 26


@pytest.mark.parametrize("checkpointing", ["full", "none"])
def test_what_is_left_is_78_gb_whatever_checkpointing_does(ask: Any, checkpointing: str) -> None:
    result = ask("--checkpointing", checkpointing)
    left = sum(result["persistent_bytes"].values())
    assert round(left / GB, 1) == 78.5
    assert round(left / GIB, 1) == 73.1
    assert result["peak"]["requested_bytes"] > left
    for part, num_bytes in result["persistent_bytes"].items():
        assert result["at_peak_bytes"][part] == num_bytes


def test_it_fits_at_batch_1_and_stops_fitting_soon_after(ask: Any) -> None:
    assert ask()["device"]["total_bytes"] / GIB == pytest.approx(79.25, abs=0.005)
    statuses = [ask("--batch", str(batch))["verdict"]["status"] for batch in range(1, STOPS_FITTING + 1)]
    assert statuses[0] == "fits"
    assert statuses[-1] == "does_not_fit"
    assert "does_not_fit" not in statuses[:-1]


def test_checkpointing_is_what_makes_room_for_the_activations(ask: Any) -> None:
    with_it, without_it = ask(), ask("--checkpointing", "none")
    assert with_it["verdict"]["status"] == "fits"
    assert without_it["verdict"]["status"] == "does_not_fit"
    assert without_it["phase_peak_bytes"]["forward"] - with_it["phase_peak_bytes"]["forward"] > 8 * GIB


def test_float32_masters_do_not_fit(ask: Any) -> None:
    """Weights and gradients in float32 are 104 GB before the optimizer has kept anything."""
    result = ask(scenario=SCENARIOS / "llama-13b-a100-fp32-master.yaml")
    kept = result["persistent_bytes"]
    assert kept["weights"] == kept["gradients"] == 4 * PARAMETERS
    assert result["verdict"]["status"] == "does_not_fit"


def test_the_parts_of_the_peak_sum_to_it(ask: Any) -> None:
    result = ask()
    assert sum(result["at_peak_bytes"].values()) == result["peak"]["allocated_bytes"]

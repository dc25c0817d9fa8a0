"""Reserved memory against training runs on real GPUs that others published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memprof import api
from memprof.model.scenario import Batch, Loop, Optimizer, Scenario, Software

RUNS = json.loads(Path("reports/evidence/public/a100_qwen_adafactor.json").read_text())["runs"]
TOLERANCE = 0.008
"""The worst of the four is 0.76 % over."""


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run["id"])
def test_reserved_memory_is_within_a_percent_of_published_a100_runs(run: dict[str, object]) -> None:
    result = api.estimate(
        Scenario(
            model=str(run["model"]),
            precision="fp32",
            batch=Batch(micro_batch_size=int(str(run["batch_size"])), sequence_length=int(str(run["sequence_length"]))),
            optimizer=Optimizer(name="adafactor", implementation="for-loop"),
            loop=Loop(zero_grad="start"),
            device="a100-40gb",
            software=Software(torch=str(run["torch"]), transformers=str(run["transformers"])),
        )
    )
    reserved = result.peak.reserved_bytes
    assert reserved is not None
    predicted, measured = reserved + int(str(run["context_bytes"])), int(str(run["nvml_peak_bytes"]))
    assert abs(predicted / measured - 1) <= TOLERANCE, f"{predicted / measured - 1:+.2%}"

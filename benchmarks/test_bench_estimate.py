"""What an estimate costs: a cold command, estimates a second in one process, and a deeper model.

Times are gated only as ratios to other work of the same run; README.md holds the figures of a quiet machine.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from memprof import api
from memprof.model.decode import decode
from tests.support.speed import (
    BARE,
    ESTIMATE,
    bare_interpreters,
    calibration,
    cpu_s,
    least_s,
    peak_rss_bytes,
    scenarios,
)

COLD = {
    "an interpreter that does nothing": BARE,
    "importing the api": ("-c", "import memprof.api"),
    "the whole command": ESTIMATE,
}
NUM_SCENARIOS = 300
# 300 estimates a second are 4.5 calibrations each; the rest is for a busy machine.
MOST_CALIBRATIONS = 8


@pytest.mark.parametrize("arguments", COLD.values(), ids=COLD)
def test_a_cold_start(benchmark: Any, arguments: tuple[str, ...]) -> None:
    cpu_s(arguments)  # compiles what is new
    benchmark.pedantic(cpu_s, args=(arguments,), rounds=10)
    ratio = min(islice(bare_interpreters(arguments), 10))
    benchmark.extra_info["bare_interpreters"] = round(ratio, 1)
    assert ratio <= 15


def test_memory_of_a_cold_start(benchmark: Any) -> None:
    run = "from memprof.__main__ import main; main(['estimate', 'llama-13b', '--json'])"
    num_bytes = benchmark.pedantic(peak_rss_bytes, args=(run,), rounds=3)
    benchmark.extra_info["peak_rss_bytes"] = num_bytes
    assert num_bytes < 70 * 10**6


def test_different_scenarios_in_one_process(benchmark: Any) -> None:
    different = scenarios(NUM_SCENARIOS)
    assert len(set(map(repr, different))) == NUM_SCENARIOS

    def sweep() -> list[int]:
        return [api.allocated(scenario) for scenario in different]

    answers = benchmark.pedantic(sweep, rounds=3, warmup_rounds=1)
    cost = least_s(sweep, 2) / NUM_SCENARIOS
    benchmark.extra_info["estimates_per_cpu_s"] = round(1 / cost)
    benchmark.extra_info["calibrations"] = round(cost / least_s(calibration, 50), 2)
    # One model and way after another, each 49 apart with one more sequence in its batch.
    assert all(0 < fewer < more for fewer, more in zip(answers, answers[49:], strict=False))
    assert benchmark.extra_info["calibrations"] < MOST_CALIBRATIONS


@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"])
def test_the_depth_of_a_model(benchmark: Any, model: str) -> None:
    shallow, scenario = decode({"model": "llama-3.1-8b"}), decode({"model": model})
    answer = benchmark.pedantic(api.allocated, args=(scenario,), rounds=20, warmup_rounds=3)
    ratio = min(
        least_s(lambda: api.allocated(scenario), 5) / least_s(lambda: api.allocated(shallow), 5) for _ in range(5)
    )
    benchmark.extra_info["times_the_8b_model"] = round(ratio, 2)
    assert answer >= api.allocated(shallow)
    assert ratio <= 1.5


def test_a_whole_estimate_with_its_alternatives(benchmark: Any) -> None:
    scenario = decode({"model": "llama-13b"})
    result = benchmark.pedantic(
        api.estimate, args=(scenario,), kwargs={"alternatives": True}, rounds=5, warmup_rounds=1
    )
    result.check()
    assert len(result.alternatives) == 7

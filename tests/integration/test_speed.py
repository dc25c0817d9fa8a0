"""What an answer may cost: a cold command, its memory, and a deeper model. Only ratios and bytes, the best of many."""

from __future__ import annotations

import sys
from itertools import islice

import pytest

from memprof.allocator import parse_conf, play
from memprof.api import allocated
from memprof.model.decode import decode
from tests.support.scenarios import played
from tests.support.speed import ESTIMATE, bare_interpreters, calibration, least_s, peak_rss_bytes


def test_a_cold_estimate_costs_at_most_fifteen_bare_interpreters() -> None:
    assert any(ratio <= 15 for ratio in islice(bare_interpreters(ESTIMATE), 20))


@pytest.mark.skipif(sys.platform != "linux", reason="a process learns its peak memory from /proc")
def test_a_cold_estimate_stays_under_seventy_megabytes() -> None:
    run = "from memprof.__main__ import main; main(['estimate', 'llama-13b', '--json'])"
    assert peak_rss_bytes(f"{run}; assert 'torch' not in sys.modules") < 70 * 10**6


@pytest.mark.parametrize("conf", ["", "expandable_segments:True"])
def test_playing_a_step_of_llama_13b_costs_at_most_a_hundred_and_thirty_calibrations(conf: str) -> None:
    timeline, settings = played(decode({"model": "llama-13b"})).timeline, parse_conf(conf)
    ratios = (least_s(lambda: play(timeline, settings), 3) / least_s(calibration, 20) for _ in range(10))
    assert any(ratio <= 130 for ratio in ratios)


def test_the_allocated_answer_does_not_cost_more_with_depth() -> None:
    shallow, deep = decode({"model": "llama-3.1-8b"}), decode({"model": "llama-3.1-405b"})
    assert 0 < allocated(shallow) < allocated(deep)
    ratios = (least_s(lambda: allocated(deep), 5) / least_s(lambda: allocated(shallow), 5) for _ in range(10))
    assert any(ratio <= 1.5 for ratio in ratios)

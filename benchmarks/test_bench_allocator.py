"""What a simulated event costs. Times are compared with each other, in one run; results are asserted exactly."""

from __future__ import annotations

import random
import tracemalloc
from time import perf_counter
from typing import Any

import pytest

from memprof.allocator import CachingAllocator, parse_conf, play, replay
from memprof.units import MiB
from tests.support.tapes import tape
from tests.support.timelines import layered_timeline

EVENTS = 40_000


def _traffic(num_events: int, num_live: int) -> list[tuple[int, int]]:
    """(bytes, 0) of a request or (-1, index) of a free, with about ``num_live`` blocks alive."""
    chooser = random.Random(0)
    events, live = [], 0
    while len(events) < num_events:
        if live < num_live or chooser.random() < 0.5:
            events.append(
                (chooser.choice((512, 8192, 1 * MiB, 4 * MiB, 40 * MiB, 100 * MiB)) + chooser.randrange(512), 0)
            )
            live += 1
        else:
            events.append((-1, chooser.randrange(live)))
            live -= 1
    return events


def _drive(events: list[tuple[int, int]]) -> CachingAllocator:
    allocator = CachingAllocator()
    malloc, free = allocator.malloc, allocator.free
    live: list[Any] = []
    for num_bytes, index in events:
        if num_bytes >= 0:
            live.append(malloc(num_bytes))
        else:
            live[index], live[-1] = live[-1], live[index]
            free(live.pop())
    return allocator


def test_arbitrary_traffic(benchmark: Any) -> None:
    events = _traffic(EVENTS, 1000)
    allocator = benchmark(_drive, events)
    benchmark.extra_info["events_per_s"] = round(EVENTS / benchmark.stats.stats.min)
    assert allocator.memory_stats()["allocation.all.allocated"] == sum(size >= 0 for size, _ in events)
    assert allocator.allocated_bytes <= allocator.reserved_bytes


def test_a_recorded_training_run(benchmark: Any) -> None:
    recorded = tape("gpu_lm4x512_ctx200_train_autocast")
    result = benchmark(replay, recorded)
    benchmark.extra_info["events_per_s"] = round(len(recorded.events.action) / benchmark.stats.stats.min)
    assert recorded.recorded is not None
    assert result.peak_reserved_bytes == recorded.recorded.peak_reserved_bytes


@pytest.mark.parametrize("conf", ["", "expandable_segments:True"])
def test_a_step_of_forty_layers(benchmark: Any, conf: str) -> None:
    timeline = layered_timeline(40)
    result = benchmark(play, timeline, parse_conf(conf))
    benchmark.extra_info["events"] = sum(1 for _ in timeline.unroll())
    assert result.is_steady
    assert result.num_steps <= 3


def test_an_event_costs_much_the_same_among_more_live_blocks(benchmark: Any) -> None:
    few, many = _traffic(EVENTS, 200), _traffic(EVENTS, 10_000)

    ratios = []

    def compare() -> None:
        times = []
        for events in (few, many):
            start = perf_counter()
            _drive(events)
            times.append(perf_counter() - start)
        ratios.append(times[1] / times[0])

    benchmark.pedantic(compare, rounds=3)
    benchmark.extra_info["ratio"] = min(ratios)
    assert min(ratios) < 4


def _memory(num_live: int) -> int:
    allocator = CachingAllocator()
    tracemalloc.start()
    try:
        blocks = [allocator.malloc(3 * MiB) for _ in range(num_live)]
        for _ in range(3):  # what was freed leaves nothing behind
            for block in blocks[::2]:
                allocator.free(block)
            blocks[::2] = [allocator.malloc(3 * MiB) for _ in blocks[::2]]
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_memory_is_linear_in_live_blocks(benchmark: Any) -> None:
    small, large = _memory(2000), benchmark.pedantic(_memory, args=(8000,), rounds=1)
    benchmark.extra_info["bytes_per_block"] = large // 8000
    assert large < 4 * small * 1.25  # lists and dictionaries grow in jumps
    assert large < 8000 * 1000

"""Each rule of the simulator is held by a trace or a tape: changing it makes one fail."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from memprof.allocator import device, expandable, native, release, rules
from memprof.allocator.blocks import ADDRESS_BITS, Block, FreeList
from memprof.allocator.device import Device
from memprof.allocator.expandable import ExpandableSegments
from memprof.allocator.native import CachingAllocator
from memprof.allocator.replay import replay
from memprof.allocator.rules import RULES, Rules
from memprof.units import MiB
from tests.support.allocator_traces import TRACES
from tests.support.tapes import segment_growth, tape

LOWEST_ROOM = ExpandableSegments._lowest_room
REQUEST_FREE = CachingAllocator.request_free

CONSTANTS: tuple[dict[str, Any], ...] = (
    {"min_block": 256},
    {"min_block": 1024},
    {"small_request": 1 * MiB - 512},
    {"small_request": 1 * MiB + 512},
    {"small_segment": 4 * MiB},
    {"large_request": 10 * MiB + 512},
    {"large_request": 10 * MiB - 512},
    {"segment_round": 1 * MiB},
    {"small_remainder": 1024},
    {"large_remainder": 1 * MiB},
    {"large_remainder": 1 * MiB + 1024},
    {"address_space": (1, 1)},
)


def _worst_fit(keys: list[int], key: int) -> int:
    """The largest block where the smallest would do; an exact key is still found."""
    found = bisect_left(keys, key)
    is_search = key & ((1 << ADDRESS_BITS) - 1) == 0
    return len(keys) - 1 if is_search and found < len(keys) else found


def _never_merge(self: CachingAllocator, block: Block, home: FreeList) -> None:
    block.state = 0
    home.insert(block)


def _shared_lists(self: CachingAllocator, stream: int) -> tuple[FreeList, FreeList]:
    lists = self._lists[stream] = (self._small.list_of(0), self._large.list_of(0))
    return lists


def _best_fit(free_list: FreeList, size: int) -> int:
    return bisect_left(free_list.keys, size << ADDRESS_BITS)


def _at_the_end(self: ExpandableSegments, free_list: FreeList, size: int) -> Block:
    addresses = free_list.unmapped_addresses
    return free_list.unmapped[addresses[-1]] if addresses else LOWEST_ROOM(self, free_list, size)


def _wait_for_one(self: CachingAllocator, block: Block) -> None:
    REQUEST_FREE(self, block)
    self._events[block] = 1


def _wait_for_any(self: CachingAllocator, block: Block, stream: int) -> None:
    self._streams.setdefault(block, set()).add(stream)


def _always(result: object) -> Callable[..., object]:
    return lambda *_: result


# What is changed, where it is, and what it does instead.
BEHAVIOURS: dict[str, tuple[object, str, object]] = {
    "best fit": (native, "bisect_left", _worst_fit),
    "merging": (CachingAllocator, "_cache", _never_merge),
    "a free list for each stream": (CachingAllocator, "_open", _shared_lists),
    "waiting for other streams": (CachingAllocator, "record_stream", _always(None)),
    "waiting for each of them": (CachingAllocator, "request_free", _wait_for_one),
    "no waiting for its own stream": (CachingAllocator, "record_stream", _wait_for_any),
    "private pools": (CachingAllocator, "_capturing", lambda self, size, stream: self._open(stream)[size > 1 * MiB]),
    "releasing private pools": (CachingAllocator, "release_pool", _always(None)),
    "emptying the cache, and before a retry": (CachingAllocator, "empty_cache", _always(None)),
    "oversize blocks": (CachingAllocator, "_best_fit", lambda self, free, size: _best_fit(free, size)),
    "releasing oversize blocks": (native, "release_oversize", _always(False)),
    "garbage collection": (native, "collect_garbage", _always(None)),
    "age of garbage": (release, "_age", _always(1)),
    "the device's size": (Device, "fits", _always(True)),
    "the process's share": (Device, "allows", _always(True)),
    "division of an octave": (rules, "_next_division", lambda num_bytes, _: rules.round_up(num_bytes, 512)),
    "divisions by size": (rules, "_interval", _always(0)),
    "using the growing end last": (ExpandableSegments, "prefer", lambda self, free_list, index: index),
    "filling gaps": (ExpandableSegments, "_lowest_room", _at_the_end),
    "whole pages only": (expandable, "whole_pages", lambda block, _: (block.address, block.address + block.size)),
    "unmapping": (ExpandableSegments, "unmap", _always(None)),
    "small segments upward": (device, "_UPWARD_UNTIL", 0),
    "large segments downward": (device, "_UPWARD_UNTIL", 1 << 50),
}


def _played(rules: Rules = RULES) -> Iterator[None]:
    """Every trace, then two tapes; raises where the simulator is not as it should be."""
    for trace in TRACES:
        yield trace(rules)
    for name in ("gpu_lm4x512_ctx100_train_fp32", "gpu_layerwise_calibration_empty_cache"):
        recorded = tape(name)
        result = replay(recorded, rules=rules)
        growth = [event for event in result.segment_events if event[1].action == "segment_alloc"]
        assert len(growth) == len(segment_growth(recorded))
        assert recorded.recorded is not None
        yield None
        assert result.end_allocated_bytes == recorded.recorded.end_allocated_bytes


def _fails(rules: Rules = RULES) -> bool:
    try:
        for _ in _played(rules):
            pass
    except Exception:  # noqa: BLE001 - a broken simulator may break in any way
        return True
    return False


def test_nothing_fails_unchanged() -> None:
    assert not _fails()


@pytest.mark.parametrize("change", CONSTANTS, ids=str)
def test_a_changed_constant_is_noticed(change: dict[str, Any]) -> None:
    assert _fails(replace(RULES, **change))


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_changed_behaviour_is_noticed(behaviour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, name, instead = BEHAVIOURS[behaviour]
    monkeypatch.setattr(place, name, instead)
    assert _fails()


def test_every_constant_is_changed() -> None:
    assert {name for change in CONSTANTS for name in change} == set(Rules.__struct_fields__)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.allocator import CachingAllocator, OutOfMemoryError, Settings, parse_conf
from memprof.allocator.blocks import Block
from memprof.allocator.plain import PlainAllocator, is_plain
from memprof.units import MiB

SIZES = (1, 511, 512, 513, 1 * MiB - 1, 1 * MiB, 1 * MiB + 1, 3 * MiB, 9 * MiB, 10 * MiB, 19 * MiB, 20 * MiB, 41 * MiB)
CONFS = ("", "large_segment_size_mb:40", "expandable_segments:True")
REQUESTS = st.tuples(st.sampled_from(SIZES), st.integers(0, 1))  # bytes, stream
FREES = st.integers(0, 29)  # which of the living blocks


@given(
    st.lists(st.one_of(REQUESTS, REQUESTS, FREES), min_size=20, max_size=150),
    st.sampled_from(CONFS),
    st.sampled_from((None, 150 * MiB)),
)
def test_every_decision_is_that_of_the_whole_allocator(
    events: list[tuple[int, int] | int], conf: str, device_bytes: int | None
) -> None:
    kinds = (PlainAllocator, CachingAllocator)
    plain, whole = (kind(parse_conf(conf), device_bytes=device_bytes, other_bytes=30 * MiB) for kind in kinds)
    live = []
    for event in events:
        if not isinstance(event, tuple):
            if live:
                ours, theirs = live.pop(event % len(live))
                plain.free(ours)
                whole.free(theirs)
        elif isinstance(ours := _request(plain, *event), Block):
            theirs = whole.malloc(*event)
            live.append((ours, theirs))
            assert (ours.address, ours.size, ours.requested) == (theirs.address, theirs.size, theirs.requested)
        else:
            assert ours == _request(whole, *event)
        assert plain.free_picture() == whole.free_picture()
        assert plain.allocated_bytes == whole.allocated_bytes
        assert plain.reserved_bytes == whole.reserved_bytes
    assert plain.stats.together.bytes == whole.stats.together.bytes
    assert plain.stats.together.requested == whole.stats.together.requested
    assert plain.stats.reserved_bytes[0].peak == whole.stats.reserved_bytes[0].peak
    assert plain.stats.num_alloc_retries == whole.stats.num_alloc_retries


def _request(allocator: CachingAllocator, num_bytes: int, stream: int) -> Block | dict[str, int]:
    """A block, or what is told of running out."""
    try:
        return allocator.malloc(num_bytes, stream)
    except OutOfMemoryError as error:
        return vars(error)


@pytest.mark.parametrize(
    "conf",
    [
        "max_split_size_mb:64",
        "roundup_power2_divisions:4",
        "garbage_collection_threshold:0.8",
    ],
)
def test_settings_that_change_decisions_are_not_plain(conf: str) -> None:
    assert is_plain(Settings())
    assert not is_plain(parse_conf(conf))

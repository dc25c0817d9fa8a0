from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.allocator import CachingAllocator, Settings, parse_conf
from memprof.allocator.plain import PlainAllocator, is_plain
from memprof.units import MiB

SIZES = (1, 511, 512, 513, 1 * MiB - 1, 1 * MiB, 1 * MiB + 1, 3 * MiB, 9 * MiB, 10 * MiB, 19 * MiB, 20 * MiB, 41 * MiB)
REQUESTS = st.tuples(st.sampled_from(SIZES), st.integers(0, 2))


@given(
    st.lists(st.one_of(REQUESTS, st.integers(0, 1000)), max_size=120),
    st.sampled_from((Settings(), parse_conf("large_segment_size_mb:40"))),
)
def test_every_decision_is_that_of_the_whole_allocator(events: list[tuple[int, int] | int], settings: Settings) -> None:
    plain, whole = PlainAllocator(settings), CachingAllocator(settings)
    live = []
    for event in events:
        if isinstance(event, tuple):
            live.append((plain.malloc(*event), whole.malloc(*event)))
            ours, theirs = live[-1]
            assert (ours.address, ours.size, ours.requested) == (theirs.address, theirs.size, theirs.requested)
        elif live:
            ours, theirs = live.pop(event % len(live))
            plain.free(ours)
            whole.free(theirs)
        assert plain.free_picture() == whole.free_picture()
        assert plain.allocated_bytes == whole.allocated_bytes
        assert plain.reserved_bytes == whole.reserved_bytes
    assert plain.stats.together.bytes == whole.stats.together.bytes
    assert plain.stats.together.requested == whole.stats.together.requested
    assert plain.stats.reserved_bytes[0].peak == whole.stats.reserved_bytes[0].peak


@pytest.mark.parametrize(
    "conf",
    [
        "expandable_segments:True",
        "max_split_size_mb:64",
        "roundup_power2_divisions:4",
        "garbage_collection_threshold:0.8",
    ],
)
def test_settings_that_change_decisions_are_not_plain(conf: str) -> None:
    assert is_plain(Settings())
    assert not is_plain(parse_conf(conf))

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memprof.allocator.rules import NUM_ROUNDUP_INTERVALS, RULES, _next_division, round_size, round_up, segment_size
from memprof.units import GiB, MiB

SIZES = st.integers(1, 100 * GiB)
DIVISIONS = st.sampled_from([(), *((parts,) * NUM_ROUNDUP_INTERVALS for parts in (1, 2, 4, 8, 64))])


@given(SIZES, DIVISIONS)
def test_a_block_holds_its_request(num_bytes: int, divisions: tuple[int, ...]) -> None:
    size = round_size(num_bytes, divisions)
    assert size >= num_bytes
    assert size % RULES.min_block == 0
    assert round_size(size, divisions) == size


@given(SIZES, SIZES, DIVISIONS)
def test_a_larger_request_never_gets_a_smaller_block(one: int, other: int, divisions: tuple[int, ...]) -> None:
    small, large = sorted((one, other))
    assert round_size(small, divisions) <= round_size(large, divisions)


@given(SIZES)
def test_without_divisions_less_than_512_bytes_are_lost(num_bytes: int) -> None:
    assert round_size(num_bytes, ()) == round_up(num_bytes, 512)


@given(SIZES, st.sampled_from([12 * MiB, 20 * MiB, 64 * MiB]))
def test_a_segment_holds_its_block(num_bytes: int, large: int) -> None:
    size = segment_size(num_bytes, large)
    assert size >= num_bytes
    assert size % RULES.segment_round == 0


def test_the_example_of_the_upstream_comment() -> None:
    # 1200 lies between 1024 and 2048; four parts of that octave begin at 1024, 1280, 1536 and 1792.
    assert _next_division(1200, 4) == 1280

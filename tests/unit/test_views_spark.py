from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memprof.views import spark


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=400), st.integers(1, 120))
def test_no_peak_is_lost_and_the_width_is_kept(levels: list[int], width: int) -> None:
    drawn = spark.bars(levels, width, unicode=True)
    assert len(drawn) <= width
    assert max(levels) == 0 or "█" in drawn
    plain = spark.bars(levels, width, unicode=False)
    assert plain.isascii()
    assert len(plain) == len(drawn)


@given(st.lists(st.sampled_from(["load", "forward", "backward"]), min_size=1, max_size=400), st.integers(1, 120))
def test_names_stand_below_their_columns(labels: list[str], width: int) -> None:
    below = spark.names(labels, width)
    assert len(below) <= width
    step = -(-len(labels) // width)
    for column, text in enumerate(below):
        assert text == " " or text in labels[column * step]


def test_a_name_begins_where_its_phase_does() -> None:
    assert spark.names(["load"] * 6 + ["forward"] * 6 + ["x"] * 2 + ["backward"] * 20, 34) == "load  forwa   backward"

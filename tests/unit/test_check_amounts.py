from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.check.amounts import amount
from memprof.errors import ConfigError
from memprof.units import GiB


def test_a_size_is_that_size_whatever_the_whole() -> None:
    assert amount("72 GiB", None).num_bytes == 72 * GiB
    assert amount("80GB", 1).num_bytes == 80 * 10**9


def test_a_share_is_of_the_whole_and_unknown_without_one() -> None:
    assert amount("90 %", 1000).num_bytes == 900
    assert amount("2.5%", 1000).num_bytes == 25
    assert amount("90 %", None).num_bytes is None
    assert amount("0 %", 1000).num_bytes == 0


@given(whole=st.integers(0, 2**50), hundredths=st.integers(0, 10**6))
def test_a_share_is_rounded_down_and_exact(whole: int, hundredths: int) -> None:
    share = amount(f"{hundredths // 100}.{hundredths % 100:02} %", whole).num_bytes
    assert share == whole * hundredths // 10**4


@pytest.mark.parametrize(
    "text", ["", "much", "72", "-1 GiB", "72 GiBs", "% 90", "90 % GiB", "1e3 GiB", "nan %", "72 M%"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        amount(text, 1000)

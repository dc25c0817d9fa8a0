from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import ConfigError
from memprof.units import GiB, KiB, MiB, TiB, format_bytes, format_count, gib, parse_bytes

SIZES = st.integers(min_value=0, max_value=999 * TiB)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("72GiB", 72 * GiB),
        ("72 gib", 72 * GiB),
        ("80GB", 80 * 10**9),
        ("80 kB", 80_000),
        (" 1.5 MiB ", 3 * MiB // 2),
        (".5KiB", 512),
        ("1 TB", 10**12),
        (1024, 1024),
    ],
)
def test_a_size_is_read_in_its_own_unit(text: str | int, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1 GiB", "1e3", "1 GiBs", "1,5 GB", "nan", "inf", "1 2", "٣ GiB", "9" * 5000, "1\n2"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_bytes(text)


@given(SIZES)
def test_printed_sizes_read_back_within_their_last_digit(num_bytes: int) -> None:
    text = format_bytes(num_bytes).replace(",", "")
    unit = {"B": 1, "KiB": KiB, "MiB": MiB, "GiB": GiB, "TiB": TiB}[text.split()[1]]
    assert abs(parse_bytes(text) - num_bytes) <= unit / 200 + 1


@given(SIZES)
def test_whole_numbers_of_a_unit_are_exact(count: int) -> None:
    assert parse_bytes(f"{count} GiB") == count * GiB
    assert parse_bytes(f"{count}GB") == count * 10**9


@given(st.text(max_size=40))
def test_any_text_is_a_size_or_a_config_error(text: str) -> None:
    with suppress(ConfigError):
        assert parse_bytes(text) >= 0


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0.00 GiB"), (int(61.2 * GiB), "61.20 GiB"), (1234 * GiB, "1,234.00 GiB"), (-GiB, "-1.00 GiB")],
)
def test_answers_are_in_gib_with_two_decimals(num_bytes: int, text: str) -> None:
    assert gib(num_bytes) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (KiB, "1.00 KiB"), (16 * MiB, "16.00 MiB"), (-3 * GiB, "-3.00 GiB")],
)
def test_sizes_take_the_largest_unit_that_fits(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"), [(512, "512"), (124_439_808, "124.44 M"), (13_015_864_320, "13.02 B"), (10**12, "1.00 T")]
)
def test_counts_are_in_powers_of_1000(count: int, text: str) -> None:
    assert format_count(count) == text

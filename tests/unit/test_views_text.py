from __future__ import annotations

import re

import msgspec
import pytest

from memprof.units import TiB
from memprof.views import table, text
from memprof.views.phrases import answer
from memprof.views.terminal import PLAIN, Terminal
from tests.support.results import make_result

TERM = {
    "term": "weights",
    "formula": "num_parameters x 4",
    "values": {"num_parameters": 13_015_864_320},
    "bytes": 52_063_457_280,
    "source": "https://pytorch.org/docs/stable/amp.html",
}


@pytest.mark.parametrize("width", [40, 64, 80, 200])
def test_the_first_line_is_the_whole_answer_at_any_width(width: int) -> None:
    result = make_result()
    assert text.render(result, Terminal(width, color=False, unicode=True)).splitlines()[0] == answer(result)


@pytest.mark.parametrize("width", [40, 52, 80, 200])
def test_no_number_is_cut_and_no_line_is_too_long(width: int) -> None:
    drawn = text.render(make_result(), Terminal(width, color=False, unicode=True))
    assert all(len(line) <= width for line in drawn.splitlines()[1:])
    for number in ("96.00 GiB", "48.00 GiB", "3.00 GiB", "0.01 GiB", "195.01 GiB", "60.00 GiB", "75.00 GiB", "49 %"):
        assert number in drawn
    assert "…" not in drawn
    assert "..." not in drawn


def test_a_number_of_any_length_keeps_its_digits() -> None:
    parts = {"weights": 10**5 * TiB}
    peak = msgspec.structs.replace(make_result().peak, allocated_bytes=10**5 * TiB)
    drawn = text.render(make_result(at_peak_bytes=parts, peak=peak), Terminal(40, color=False, unicode=True))
    assert "102,400,000.00 GiB" in drawn


def test_the_answer_holds_each_section() -> None:
    drawn = text.render(make_result(terms=[TERM]), PLAIN)
    for words in (
        "llama-13b: 13.02 B parameters",
        "At the peak, in backward of lm_head",
        "optimizer states",
        "Peak of each phase",
        "first step",
        "Held all the time",
        "Other ways to run it",
        "pure bf16, 8-bit Adam, full checkpointing",
        "not modelled yet",
        "warning: reserved and device bytes are not known yet",
        "evidence: analytic: op rules, checked on the CPU",
    ):
        assert words in drawn


def test_terms_show_formula_values_and_source() -> None:
    assert "Terms" not in text.render(make_result(), PLAIN)
    drawn = text.render(make_result(terms=[TERM]), PLAIN)
    assert "weights: 48.49 GiB" in drawn
    assert "num_parameters x 4" in drawn
    assert "num_parameters=13015864320" in drawn
    assert TERM["source"] in drawn


def test_colour_and_blocks_only_where_the_terminal_has_them() -> None:
    plain = text.render(make_result(), Terminal(80, color=False, unicode=False))
    assert plain.isascii()
    assert "\x1b" not in plain
    assert "####" in plain
    rich = text.render(make_result(), Terminal(80, color=True, unicode=True))
    assert "\x1b[1;31m" in rich
    assert "████" in rich
    assert re.sub(r"\x1b\[[0-9;]*m", "", rich).splitlines()[0] == answer(make_result())


def test_text_from_outside_is_not_markup() -> None:
    drawn = text.render(make_result(warnings=["[red]x[/red] :smile: [link=a]"]), PLAIN)
    assert "[red]x[/red] :smile: [link=a]" in drawn


def test_an_empty_result_draws_no_empty_section() -> None:
    drawn = text.render(make_result(alternatives=[], phase_peak_bytes={}, persistent_bytes={}, warnings=[]), PLAIN)
    for title in ("Other ways", "Peak of each phase", "Held all the time", "warning"):
        assert title not in drawn


def test_a_table_keeps_long_cells_whole() -> None:
    drawn = table.render(("name", "size"), [("a" * 60, "1,234.00 GiB")], Terminal(40, False, True), numbers=(1,))
    assert drawn.count("a") - 1 == 60  # one in the header
    assert "1,234.00 GiB" in drawn

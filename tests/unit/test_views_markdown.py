from __future__ import annotations

from itertools import pairwise

from memprof.views import markdown
from memprof.views.phrases import answer
from tests.support.results import make_result


def test_the_first_line_is_the_answer() -> None:
    assert markdown.render(make_result()).splitlines()[0] == f"**{answer(make_result())}**"


def test_every_table_has_one_width() -> None:
    terms = [{"term": "a|b", "formula": "x * 2", "values": {"x": 1}, "bytes": 2, "source": None}]
    lines = markdown.render(make_result(terms=terms)).splitlines()
    for before, line in pairwise(lines):
        if before.startswith("|") and line.startswith("|"):
            assert before.replace("\\|", "").count("|") == line.replace("\\|", "").count("|")


def test_text_from_outside_cannot_open_html_or_break_a_table() -> None:
    warning = "<img src=x>\n| a | b |"
    drawn = markdown.render(make_result(warnings=[warning], scenario=make_result().scenario | {"model": "<b>|"}))
    assert "<img" not in drawn
    assert "<b>" not in drawn
    assert "&lt;img src=x> \\| a \\| b \\|" in drawn

from __future__ import annotations

from html.parser import HTMLParser

import msgspec
import pytest

from memprof.views.phrases import answer
from tests.support.reports import HOSTILE, values
from tests.support.results import make_result

VOID = {"br", "img", "hr"}


class Balanced(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("kind", ["estimate", "snapshot", "out of memory", "comparison"])
def test_every_kind_shows_itself_as_a_small_fragment(kind: str) -> None:
    [value] = values()[kind]
    drawn = Balanced(fragment := value._repr_html_())
    assert drawn.open == []
    assert not drawn.seen & {"script", "style", "html", "img"}
    assert len(fragment) < 40_000


def test_the_answer_comes_first() -> None:
    result = make_result()
    assert result._repr_html_().startswith(f"<div><p><strong>{answer(result)}</strong>")


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_name_never_becomes_markup(name: str) -> None:
    result = make_result()
    hostile = msgspec.structs.replace(result, scenario={**result.scenario, "model": name}, warnings=[name])
    assert Balanced(hostile._repr_html_()).seen == Balanced(result._repr_html_()).seen

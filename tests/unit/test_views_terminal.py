from __future__ import annotations

import io

import pytest

from memprof.views.terminal import PLAIN, terminal_of


class Screen(io.StringIO):
    def __init__(self, is_screen: bool, encoding: str = "utf-8") -> None:
        super().__init__()
        self._is_screen, self._encoding = is_screen, encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._is_screen


@pytest.mark.parametrize(
    ("is_screen", "environ", "color"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_no_color_beats_force_color_beats_the_terminal(is_screen: bool, environ: dict[str, str], color: bool) -> None:
    assert terminal_of(Screen(is_screen), environ).color is color


@pytest.mark.parametrize(("columns", "width"), [("120", 120), ("7", 40), ("wide", PLAIN.width), ("", PLAIN.width)])
def test_columns_sets_the_width_down_to_forty(columns: str, width: int) -> None:
    assert terminal_of(Screen(False), {"COLUMNS": columns}).width == width


@pytest.mark.parametrize(
    ("encoding", "unicode"), [("utf-8", True), ("ascii", False), ("latin-1", False), ("no", False)]
)
def test_blocks_need_an_encoding_that_has_them(encoding: str, unicode: bool) -> None:
    assert terminal_of(Screen(True, encoding), {}).unicode is unicode

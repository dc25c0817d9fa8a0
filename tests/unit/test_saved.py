from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memprof.errors import ConfigError
from memprof.saved import read
from memprof.views.json import render
from tests.support.reports import values
from tests.support.results import make_result


@pytest.mark.parametrize("kind", ["estimate", "snapshot", "out of memory", "comparison", "check", "verification"])
def test_what_was_saved_is_read_back(tmp_path: Path, kind: str) -> None:
    [value] = values()[kind]
    (tmp_path / "x.json").write_text(render(value), encoding="utf-8")
    assert render(read(tmp_path / "x.json")) == render(value)


def test_fields_of_a_later_release_with_the_same_schema_are_ignored(tmp_path: Path) -> None:
    saved = json.loads(render(make_result())) | {"new_field": 1}
    (tmp_path / "x.json").write_text(json.dumps(saved), encoding="utf-8")
    assert render(read(tmp_path / "x.json")) == render(make_result())


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(render(make_result())) | fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(schema_version=2), "has schema_version 2, this memprof reads up to 1; update memprof"),
        (changed(schema_version="x"), "is damaged"),
        (changed(peak={}), "is damaged: Object missing required field"),
        (changed(at_peak_bytes={"weights": 1}), "is damaged: breakdown sums to 1"),
        (changed(modules_at_peak=[{"module": "a"}]), "is damaged: Object missing required field `component`"),
        (changed(timeline={"columns": ["a"], "rows": [[1, 2]]}), "is damaged: a row of the timeline"),
        ("", "is not a result in JSON"),
        ("[]", "is not a result in JSON"),
        ("{", "is not a result in JSON"),
        ("[" * 100_000, "is not a result in JSON"),
        ("{}", "is JSON, but no result of memprof's"),
        ("\x1f\x8b\x00", "is not a result in JSON"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "x.json")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="is not a file"):
        read(tmp_path)

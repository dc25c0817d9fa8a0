from __future__ import annotations

import json

from memprof.errors import UsageError
from memprof.model.result import Result
from memprof.views.json import render, render_error
from tests.support.results import make_result


def test_the_fields_come_in_the_order_of_the_contract() -> None:
    told = json.loads(render(make_result()))
    assert list(told) == list(Result.__struct_fields__)
    assert list(told)[:4] == ["schema_version", "memprof_version", "engine", "scenario"]


def test_what_is_not_known_is_null() -> None:
    told = json.loads(render(make_result()))
    assert told["peak"]["device_bytes"] is None
    assert told["time"] == {"step_s": None, "tokens_per_s": None, "mfu": None}


def test_the_same_result_gives_the_same_bytes() -> None:
    assert render(make_result()) == render(make_result())


def test_it_is_indented_and_ends_its_last_line() -> None:
    assert render({"a": [1]}) == '{\n  "a": [\n    1\n  ]\n}\n'


def test_an_error_is_an_object_of_its_own() -> None:
    told = json.loads(render_error(UsageError("what", "do this")))
    assert told == {"error": {"type": "UsageError", "message": "what", "hint": "do this"}}
    assert json.loads(render_error(UsageError("what")))["error"]["hint"] is None

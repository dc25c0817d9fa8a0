from __future__ import annotations

import msgspec
import pytest

from memprof.compare import compare
from memprof.model.comparison import Pair
from memprof.units import GiB
from memprof.views import comparison_markdown, comparison_text
from memprof.views.terminal import PLAIN, Terminal
from tests.support.reports import values
from tests.support.results import make_result

NAMES = ("a.json", "b.json")


def smaller() -> object:
    result = make_result()
    parts = {**result.at_peak_bytes, "activations": 1 * GiB}
    peak = msgspec.structs.replace(
        result.peak,
        allocated_bytes=result.peak.allocated_bytes - 2 * GiB,
        requested_bytes=result.peak.requested_bytes - 2 * GiB,
    )
    scenario = {**result.scenario, "checkpointing": {"every": 2}}
    return msgspec.structs.replace(result, at_peak_bytes=parts, peak=peak, scenario=scenario)


def test_equal_results_differ_in_nothing() -> None:
    found = compare(make_result(), make_result(), NAMES)
    assert (found.components, found.phases, found.modules, found.settings) == ([], [], [], [])
    assert comparison_text.answer(found) == "allocated the same: 195.01 GiB"


def test_what_changed_is_said_with_the_setting_that_did_it() -> None:
    found = compare(make_result(), smaller(), NAMES)
    assert found.components == [Pair(name="activations", before_bytes=3 * GiB, after_bytes=1 * GiB)]
    assert [(s.name, s.before, s.after) for s in found.settings] == [
        ("checkpointing", "none", None),
        ("checkpointing.every", None, 2),
    ]
    assert comparison_text.answer(found).startswith("allocated 2.00 GiB less: 195.01 GiB before, 193.01 GiB after")


def test_a_number_that_one_of_them_lacks_is_not_a_change() -> None:
    known = make_result(peak=msgspec.structs.replace(make_result().peak, reserved_bytes=200 * GiB))
    found = compare(make_result(), known, NAMES)
    reserved = next(pair for pair in found.numbers if pair.name == "reserved")
    assert (reserved.before_bytes, reserved.after_bytes, reserved.change_bytes) == (None, 200 * GiB, None)
    assert "reserved            -  200.00 GiB       -" in comparison_text.render(found, PLAIN)


def test_an_estimate_and_a_snapshot_can_be_compared() -> None:
    [snapshot] = values()["snapshot"]
    found = compare(make_result(), snapshot, NAMES)
    assert found.kinds == ("estimate", "snapshot")
    assert found.settings == []
    assert found.numbers[1].after_bytes == snapshot.devices[0].peak.allocated_bytes
    changes = {pair.name: pair.change_bytes for pair in found.components}
    assert sum(size or 0 for size in changes.values()) == found.numbers[1].change_bytes


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_number_is_cut_and_nothing_but_the_answer_is_wider_than_the_screen(width: int) -> None:
    drawn = comparison_text.render(compare(make_result(), smaller(), NAMES), Terminal(width, False, True))
    assert all(len(line) <= width for line in drawn.splitlines()[3:])
    for number in ("195.01 GiB", "193.01 GiB", "-2.00 GiB", "3.00 GiB", "1.00 GiB"):
        assert number in drawn


def test_markdown_cannot_be_broken_out_of() -> None:
    found = compare(make_result(), smaller(), ("a|b<script>.json", "b.json"))
    drawn = comparison_markdown.render(found)
    assert "<script>" not in drawn
    assert drawn.startswith("**allocated 2.00 GiB less")
    assert "| activations | 3.00 GiB | 1.00 GiB | -2.00 GiB |" in drawn


def test_what_cannot_be_compared_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="str cannot be compared"):
        compare("text", make_result(), NAMES)

"""Each format of a check report: valid against its schema, and read back by what reads it in CI."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import Error, Failure, Skipped

from memprof.model.check_report import Change, CheckReport, Place
from memprof.views import check_json, check_markdown, check_phrases, check_text, github, junit, sarif
from memprof.views.terminal import PLAIN, Terminal
from tests.support import check_formats
from tests.support.check_reports import every_kind, failed, make_outcome, make_report, near, unknown

TEXT = st.text(max_size=40)
PLACES = st.builds(Place, path=TEXT.filter(bool), line=st.none() | st.integers(1, 10**6))


def test_the_count_names_every_status() -> None:
    assert check_phrases.summary(make_report(make_outcome(), failed())) == "2 checks: 1 passed, 1 failed"
    assert check_phrases.summary(make_report(make_outcome())) == "1 check: 1 passed"
    assert check_phrases.summary(every_kind()) == (
        "6 checks: 1 passed, 1 with a warning, 2 failed (1 at level warn), 2 unknown (1 at level info)"
    )


def test_a_message_says_value_limit_largest_and_fix_in_this_order() -> None:
    assert check_phrases.message(failed()) == (
        "74.00 GiB reserved; limit 72.00 GiB: 2.00 GiB too much;"
        " baseline 64.00 GiB: 10.00 GiB (15.6 %) more, 1.28 GiB (2 %) allowed;"
        " largest: optimizer states 40.00 GiB (57 % of what is allocated); grew most: activations +10.00 GiB;"
        " changed: batch.sequence_length 2048 -> 4096;"
        " fix: full activation checkpointing would take 65.00 GiB, 9.00 GiB less"
    )


def test_what_passed_says_how_much_is_left() -> None:
    assert check_phrases.message(make_outcome()) == "70.00 GiB reserved; limit 72.00 GiB: 2.00 GiB to spare"


def test_what_is_unknown_says_so_and_what_to_do() -> None:
    assert check_phrases.message(unknown()) == (
        "at least 60.00 GiB on the device; limit 72.00 GiB; the CUDA context has not been measured;"
        " set metric: reserved"
    )
    nothing = unknown(floor_bytes=None, components={})
    assert check_phrases.message(nothing).startswith("device bytes unknown; limit 72.00 GiB;")


def test_text_begins_with_the_count_and_has_a_line_for_each_check() -> None:
    lines = check_text.render(every_kind(), PLAIN).splitlines()
    assert lines[0] == check_phrases.summary(every_kind())
    assert [line.split()[0] for line in lines[2:] if line and not line.startswith((" ", "note"))] == [
        "passed", "warning", "failed", "unknown", "failed", "unknown",
    ]  # fmt: skip
    assert "at configs/sft, long: 100%.yaml:12" in [line.strip() for line in lines]


def test_what_the_figures_leave_out_is_told_once() -> None:
    notes = ["sft-8b, near: context not known", "near: sft.yaml: ignored learning_rate"]
    lines = check_text.render(every_kind(), PLAIN).splitlines()
    assert lines[-2:] == [f"note: {note}" for note in notes]
    markdown = check_markdown.render(every_kind())
    assert "- sft-8b, near: context not known\n- near: sft.yaml: ignored learning\\_rate" in markdown
    assert check_phrases.notes(make_report(make_outcome(warnings=["x", "x"]))) == ["all checks: x"]


def test_text_is_coloured_only_where_the_terminal_is() -> None:
    assert "\x1b" not in check_text.render(every_kind(), PLAIN)
    assert "\x1b[31m" in check_text.render(every_kind(), Terminal(width=80, color=True, unicode=True))


def test_concise_has_a_line_for_each_finding_then_the_count() -> None:
    *lines, last = check_text.concise(every_kind()).splitlines()
    assert last == check_phrases.summary(every_kind())
    assert len(lines) == 5
    assert lines[1].startswith("configs/sft, long: 100%.yaml:12: error: sft-long: 74.00 GiB reserved; limit")


def test_json_has_every_field_and_the_words() -> None:
    told = json.loads(check_json.render(every_kind()))
    assert told["schema_version"] == 1
    assert told["counts"] == {"passed": 1, "warning": 1, "failed": 2, "unknown": 2}
    assert told["summary"] == check_phrases.summary(every_kind())
    [passed, *_] = told["checks"]
    assert passed["value_bytes"] == 70 << 30
    assert passed["message"] == check_phrases.message(make_outcome())
    assert told["checks"][2]["growth"]["changes"][0]["field"] == "batch.sequence_length"


def test_markdown_has_a_row_for_each_check_and_cannot_be_broken_out_of() -> None:
    text = check_markdown.render(make_report(make_outcome(name="a|b <script>"), failed()))
    assert text.startswith("**memprof: 2 checks: 1 passed, 1 failed**")
    assert "| a\\|b &lt;script> | 70.00 GiB reserved | 72.00 GiB |  | ✅ passed |" in text
    assert "| sft-long | 74.00 GiB reserved | 72.00 GiB | +10.00 GiB | ❌ failed |" in text
    assert "| activations | 10.00 GiB | +10.00 GiB |" in text


def test_github_annotates_the_line_to_blame_gravest_first() -> None:
    *lines, last = github.render(every_kind()).splitlines()
    assert last == check_phrases.summary(every_kind())
    read = [check_formats.runner_reads(line) for line in lines]
    assert [told and told.command for told in read] == ["error", "error", "warning", "warning", "notice"]
    first = read[0]
    assert first is not None
    assert first.properties == {
        "file": "configs/sft, long: 100%.yaml",
        "line": "12",
        "title": "memprof: sft-long",
    }
    assert first.message == check_phrases.message(failed())
    assert check_formats.runner_reads(last) is None


@given(title=TEXT, message=TEXT.map(str.strip), place=PLACES)
def test_whatever_an_annotation_says_arrives_whole_and_alone(title: str, message: str, place: Place) -> None:
    line = github.annotation("error", title, message, place)
    assert "\n" not in line
    assert "\r" not in line
    told = check_formats.runner_reads(line)
    assert told is not None
    assert told.command == "error"
    assert told.properties["title"] == title
    assert told.properties["file"] == place.path
    assert told.message == message


@given(field=TEXT, value=TEXT)
def test_nothing_that_a_config_says_starts_a_line_of_the_log(field: str, value: str) -> None:
    hostile = failed(reasons=[value], place=Place(path="memprof.yaml"))
    assert hostile.growth is not None
    hostile.growth.changes.append(Change(field=field, before=None, after=value))
    report = make_report(hostile)
    for text in (check_text.render(report, PLAIN), check_text.concise(report)):
        assert not [line for line in re.split(r"[\r\n]", text) if line.startswith("::")]


def test_junit_keeps_its_schema_and_is_read_back() -> None:
    text = junit.render(every_kind())
    read = check_formats.junit(text)
    assert (read.tests, read.failures, read.errors) == (6, 1, 1)
    [suite] = read
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (6, 1, 1, 3)
    kinds = {case.name: [type(result) for result in case.result] for case in suite}
    assert kinds == {
        "sft-8b": [],
        "near": [Skipped],
        "sft-long": [Failure],
        "on the device": [Error],
        "only a warning": [Skipped],
        "only a note": [Skipped],
    }
    [broken] = [case for case in suite if case.name == "sft-long"]
    assert broken.result[0].message == check_phrases.message(failed())
    assert "optimizer_states: 40.00 GiB" in broken.system_out


@given(name=TEXT, reason=TEXT)
def test_junit_holds_any_text(name: str, reason: str) -> None:
    report = make_report(unknown(name=name, reasons=[reason], severity="error"))
    text = junit.render(report)
    check_formats.junit(text)
    [case] = ET.fromstring(text).iter("testcase")
    assert case.find("error") is not None


@pytest.mark.parametrize(
    "report", [every_kind(), make_report(make_outcome()), make_report()], ids=["all", "one", "none"]
)
def test_sarif_keeps_its_schema(report: CheckReport) -> None:
    log = check_formats.sarif(sarif.render(report))
    assert len(log["runs"][0]["results"]) == sum(outcome.severity is not None for outcome in report.checks)


def test_sarif_is_read_back_by_sarif_tools(tmp_path: Path) -> None:
    loader = pytest.importorskip("sarif.loader", reason="sarif-tools is for Python 3.11 or newer here")
    path = tmp_path / "memprof.sarif"
    path.write_text(sarif.render(every_kind()), encoding="utf-8")
    read = loader.load_sarif_file(str(path))
    assert read.get_distinct_tool_names() == ["memprof"]
    records = read.get_records()
    assert sorted(record["Severity"] for record in records) == ["error", "error", "note", "warning", "warning"]
    [record] = [record for record in records if record["Line"] == 12 and record["Severity"] == "error"]
    assert unquote(record["Location"]) == "configs/sft, long: 100%.yaml"
    assert record["Code"] == "memory-over-limit"
    assert record["Description"] == f"sft-long: {check_phrases.message(failed())}"


def test_sarif_leaves_out_what_passed_as_each_result_is_shown_as_an_alert() -> None:
    [run] = json.loads(sarif.render(make_report(make_outcome(), near())))["runs"]
    assert [result["properties"]["check"] for result in run["results"]] == ["near"]

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser

import msgspec
import pytest

from memprof.errors import UsageError
from memprof.model.result import Table
from memprof.units import GiB, gib
from memprof.views.html import document
from memprof.views.html.document import MOST_BYTES, page_of, render
from tests.support.reports import HOSTILE, estimate, values
from tests.support.results import make_result

TWO_MILLION = 2_000_000


class Texts(HTMLParser):
    """The text of a document outside of scripts and styles, and the names of its elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] not in (["script"], ["style"]):
            self.text += data


def figures(html: str) -> list[dict]:
    return [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', html)]


@pytest.mark.parametrize(
    "kind", ["estimate", "snapshot", "out of memory", "comparison", "check", "verification", "several"]
)
def test_the_same_values_give_the_same_bytes_below_the_limit(kind: str) -> None:
    html = render(*values()[kind])
    assert html == render(*values()[kind])
    assert len(html.encode()) < MOST_BYTES


def test_an_estimate_has_every_section() -> None:
    page = page_of(estimate())
    assert [section.key for section in page.sections] == ["timeline", "alive", "modules", "bridge", "ways", "phases"]
    assert page.answer.startswith("74.")
    text = Texts(render(estimate())).text
    for words in ("How to read this", "How it was made", estimate().made.command, "micro_batch_size", "a100-80gb"):
        assert words in text


def test_sections_without_anything_to_show_are_left_out() -> None:
    bare = make_result(alternatives=[], phase_peak_bytes={}, persistent_bytes={})
    assert [section.key for section in page_of(bare).sections] == ["bridge"]
    assert "Reserved bytes are not known" in render(bare)


def test_the_library_is_there_once_and_nothing_is_loaded_from_elsewhere() -> None:
    html = render(*values()["several"])
    assert html.count("plotly.js v") == 1
    ours = html.replace(html[html.index("/**") : html.index("</script>", html.index("plotly.js v"))], "")
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)|@import|url\(""", ours)


def test_two_million_events_are_drawn_in_seconds_and_the_peak_is_kept() -> None:
    result = estimate()
    columns = ["stage", "phase", "segment", "layer", "requested_bytes", "weights", "activations"]
    rows = [["step", "forward", "model.layers.*", n, 3 * n, n, 2 * n] for n in range(TWO_MILLION)]
    peak = 61 * GiB + 12_345
    rows[1_234_567] = ["step", "backward", "lm_head", 0, peak, 61 * GiB, 12_345]
    large = msgspec.structs.replace(
        result,
        timeline=Table(columns=columns, rows=rows),
        peak=msgspec.structs.replace(result.peak, requested_bytes=peak),
    )
    started = time.process_time()
    html = render(large)
    assert time.process_time() - started < 10
    assert len(html.encode()) <= MOST_BYTES
    drawn = figures(html)[0]
    areas = [trace for trace in drawn["data"] if trace.get("stackgroup")]
    assert max(map(sum, zip(*(area["y"] for area in areas), strict=True))) * GiB == peak
    assert gib(peak) in drawn["layout"]["annotations"][0]["text"]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_name_never_becomes_markup(name: str) -> None:
    result = estimate()
    warnings = [name] * len(result.warnings)
    hostile = msgspec.structs.replace(result, scenario={**result.scenario, "model": name}, warnings=warnings)
    plain, shown = Texts(render(result)), Texts(render(hostile))
    assert shown.tags == plain.tags
    assert name in shown.text
    assert "{{" not in shown.text.replace(name, "")


def test_any_input_stays_below_the_limit() -> None:
    many = 5_000
    long = "module.with.a.name." * 20
    result = estimate()
    huge = msgspec.structs.replace(
        result,
        modules_at_peak=[{"module": f"{long}{n}", "component": "weights", "bytes": n} for n in range(many)],
        terms=[{"term": long * 9, "formula": long * 9, "values": {long: n}, "bytes": n} for n in range(many)],
        alternatives=[msgspec.structs.replace(result.alternatives[0], name=f"{long}{n}") for n in range(many)],
        warnings=[long * 50] * many,
        scenario={**result.scenario, "model": long * 1000},
    )
    assert len(render(huge).encode()) <= MOST_BYTES


def test_more_results_than_fit_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"these 40 results would be .* MB, more than 6"):
        render(*[estimate()] * 40)


def test_an_island_holds_nothing_that_ends_a_script() -> None:
    text = str(document.island({"name": "</script><!--\u2028&"}))
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text) == {"name": "</script><!--\u2028&"}


def test_jinja_or_plotly_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(UsageError, match=r"needs plotly\.offline, which is not installed"):
        render(estimate())


def test_what_does_not_fit_says_what_to_do() -> None:
    assert "to make it fit, try: pure bf16, 8-bit Adam, full checkpointing" in Texts(render(make_result())).text


def test_an_out_of_memory_report_starts_with_why() -> None:
    page = page_of(values()["out of memory"][0])
    assert page.sections[0].key == "oom"
    assert page.answer.startswith("cuda:0: out of memory")


def test_a_check_report_says_what_fails_and_what_would_do() -> None:
    text = Texts(render(*values()["check"])).text
    assert "6 checks: 1 passed, 1 with a warning, 2 failed" in text
    for words in (
        "fix: full activation checkpointing would take 65.00 GiB",
        "changed: batch.sequence_length 2048 -> 4096",
    ):
        assert words in text


def test_a_verification_shows_each_engine_and_the_runs_that_failed() -> None:
    [value] = values()["verification"]
    page = page_of(value)
    assert [section.title for section in page.sections] == [
        "analytic: peak requested", "trace: peak requested", "Runs"
    ]  # fmt: skip
    rows = [row.cells for row in page.sections[-1].grid.rows]
    assert [
        "bert",
        "cpu",
        "analytic",
        "peak_requested_bytes",
        "1.07 GiB",
        "1,000.00 MiB",
        "+10.000%",
        "beyond 3%",
    ] in rows
    assert any("exit code 1" in cells[-1] for cells in rows)


def test_results_of_nothing_are_drawn_too() -> None:
    """Zero bytes, one sample, a recording without events."""
    empty = make_result(
        at_peak_bytes={"weights": 0},
        peak=msgspec.structs.replace(make_result().peak, requested_bytes=0, allocated_bytes=0, reserved_bytes=0),
        timeline=Table(columns=["stage", "phase", "segment", "layer", "requested_bytes"], rows=[["", "", "", 0, 0]]),
    )
    [snapshot] = values()["snapshot"]
    device = msgspec.structs.replace(snapshot.devices[0], num_events=0, timeline=Table(), holders=[], oom=None)
    still = msgspec.structs.replace(snapshot, devices=[device])
    assert [section.key for section in page_of(empty).sections][:2] == ["timeline", "bridge"]
    assert "timeline" not in [section.key for section in page_of(still).sections]
    assert render(empty, still, msgspec.structs.replace(snapshot, devices=[]))


def test_sections_of_several_devices_are_told_apart() -> None:
    [snapshot] = values()["snapshot"]
    devices = [snapshot.devices[0], msgspec.structs.replace(snapshot.devices[0], device=1)]
    both = {name: {"0": figures["0"], "1": figures["0"]} for name, figures in
            (("recorded", snapshot.recorded), ("simulated", snapshot.simulated))}  # fmt: skip
    page = page_of(msgspec.structs.replace(snapshot, devices=devices, **both))
    keys = [section.key for section in page.sections]
    assert len(keys) == len(set(keys))
    assert "The run (cuda:1)" in [section.title for section in page.sections]

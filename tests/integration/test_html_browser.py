"""Reports in a real browser: offline, quiet, usable, legible, and never fooled by a name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from playwright.sync_api import Browser

from memprof.model.result import Result
from memprof.units import GiB, gib
from memprof.views.html.document import render, render_pages
from memprof.views.html.figures import accuracy
from memprof.views.html.page import Page, Section
from tests.support.browser import Opened, chromium, opened
from tests.support.reports import HOSTILE, estimate, values

KINDS = ("estimate", "snapshot", "out of memory", "comparison", "check", "verification")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def report(browser: Browser, tmp_path: Path) -> Iterator[Opened]:
    with opened(browser, render(estimate()), tmp_path) as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_quiet_offline_and_without_barriers_light_and_dark(
    browser: Browser, tmp_path: Path, kind: str
) -> None:
    with opened(browser, render(*values()[kind]), tmp_path, width=1600) as found:
        assert found.page.locator(".chart .main-svg").count() > 0
        assert found.page.evaluate("document.documentElement.scrollWidth") == 1600
        assert found.barriers() == []
        found.page.emulate_media(color_scheme="dark")
        assert found.barriers("color-contrast") == []
        assert found.requests == [(tmp_path / "report.html").as_uri()]
        assert found.problems == []


@pytest.mark.parametrize("kind", [*KINDS, "several"])
def test_on_a_narrow_screen_nothing_is_cut_off(browser: Browser, tmp_path: Path, kind: str) -> None:
    with opened(browser, render(*values()[kind]), tmp_path, width=400) as found:
        assert found.page.evaluate("document.documentElement.scrollWidth") == 400
        cut_off = found.page.evaluate(
            "[...document.querySelectorAll('.annotation-text, .xtick text, .ytick text')].filter(text => {"
            " const inner = text.getBoundingClientRect(), outer = text.closest('.chart').getBoundingClientRect();"
            " return inner.width && (inner.left < outer.left - 1 || inner.right > outer.right + 1); })"
            ".map(text => text.textContent)"
        )
        assert cut_off == []


def test_the_peak_label_says_the_number_of_the_json(report: Opened) -> None:
    peak = estimate().peak
    label = report.chart("timeline").locator(".annotation-text").first.text_content()
    assert label == f"peak {gib(peak.requested_bytes)}{peak.phase} of {peak.module}"
    drawn = report.data("timeline", "data.at(-1).y[0]")
    assert round(drawn * GiB) == peak.requested_bytes


def test_predictions_stand_beside_what_was_measured_with_their_bands(browser: Browser, tmp_path: Path) -> None:
    pairs = [
        accuracy.Pair("one", 40 * GiB, 39 * GiB, 38 * GiB, 42 * GiB),
        accuracy.Pair("<b>two</b>", 20 * GiB, 21 * GiB),
    ]
    section = Section(key="accuracy", title="Predicted and measured", figure=accuracy.figure(pairs))
    page = Page(title="suite", kind="verification", answer="within 5 %", sections=[section])
    with opened(browser, render_pages([page]), tmp_path, width=400) as found:
        assert found.chart("accuracy").locator(".errorbar").count() == 2
        labels = found.chart("accuracy").locator(".annotation-text").all_text_contents()
        assert labels == ["one: 40.00 GiB of 39.00 GiB, +2.56 %", "<b>two</b>: 20.00 GiB of 21.00 GiB, -4.76 %"]
        assert found.barriers() == []


def test_the_areas_add_up_to_the_line_on_top(report: Opened) -> None:
    sums = report.chart("timeline").evaluate(
        "chart => { const areas = chart.data.filter(t => t.stackgroup), line = chart.data.find(t => !t.stackgroup);"
        " return line.y.map((y, i) => Math.abs(y - areas.reduce((sum, area) => sum + area.y[i], 0))); }"
    )
    assert max(sums) < 1e-9


def test_a_click_opens_a_box_of_the_icicle_and_the_bar_above_goes_back(report: Opened) -> None:
    def width() -> float:
        box = report.chart("alive").locator("text.slicetext", has_text="mlp").first
        return (
            report.chart("alive").evaluate(
                "chart => [...chart.querySelectorAll('g.slice')].find(s => s.textContent.startsWith('mlp'))"
                ".querySelector('path').getBoundingClientRect().width"
            )
            if box.count()
            else 0.0
        )

    before = width()
    report.chart("alive").locator("g.slice", has_text="layers.*").first.click()
    report.page.wait_for_timeout(1000)
    assert width() > before
    report.chart("alive").locator("g.pathbar", has_text="llama-13b").click()
    report.page.wait_for_timeout(1000)
    assert width() == pytest.approx(before, abs=1)


def test_the_keyboard_opens_boxes_and_stages(report: Opened) -> None:
    row = report.page.get_by_role("button", name="layers.*", exact=True)
    row.focus()
    report.page.keyboard.press("Enter")
    assert report.data("alive", "data[0].level") == row.get_attribute("data-level")

    whole = report.data("timeline", "layout.xaxis.range")
    report.page.get_by_role("button", name="steady step").focus()
    report.page.keyboard.press("Space")
    start, end = report.data("timeline", "layout.xaxis.range")
    assert whole[0] < start < end
    report.page.get_by_role("button", name="whole run").press("Enter")
    assert report.data("timeline", "layout.xaxis.range") == whole


def test_the_first_tab_stop_skips_to_the_report_and_each_has_a_visible_focus(report: Opened) -> None:
    report.page.keyboard.press("Tab")
    assert report.page.evaluate("document.activeElement.textContent") == "Skip to the report"
    for _ in range(8):
        report.page.keyboard.press("Tab")
        assert report.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_mouse_zooms_into_the_timeline_and_a_double_click_goes_back(report: Opened) -> None:
    whole = report.data("timeline", "layout.xaxis.range")
    report.chart("timeline").scroll_into_view_if_needed()
    box = report.chart("timeline").locator(".nsewdrag").bounding_box()
    middle = box["y"] + box["height"] * 0.8
    mouse = report.page.mouse
    mouse.move(box["x"] + box["width"] * 0.3, middle)
    mouse.down()
    mouse.move(box["x"] + box["width"] * 0.6, middle, steps=5)
    mouse.up()
    start, end = report.data("timeline", "layout.xaxis.range")
    assert end - start < 0.5 * (whole[1] - whole[0])
    mouse.dblclick(box["x"] + box["width"] * 0.5, middle)
    report.page.wait_for_timeout(500)
    assert report.data("timeline", "layout.xaxis.range") == whole


def test_dark_follows_the_system_until_the_button_says_otherwise(browser: Browser, tmp_path: Path) -> None:
    def colors(found: Opened) -> tuple[str, str]:
        page = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return page, found.chart("timeline").locator(".xtick text").first.evaluate("t => getComputedStyle(t).fill")

    html = render(estimate())
    with opened(browser, html, tmp_path) as found:
        light = colors(found)
        found.page.get_by_role("button", name="Dark").click()
        dark = colors(found)
        assert dark[0] != light[0]
        assert dark[1] != light[1]
        assert found.page.get_by_role("button", name="Light").count() == 1
    with opened(browser, html, tmp_path, scheme="dark") as found:
        assert colors(found) == dark
        found.page.emulate_media(color_scheme="light")
        found.page.get_by_role("button", name="Dark").wait_for()
        assert colors(found) == light


def test_hostile_names_are_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, render(*map(named, HOSTILE.values())), tmp_path, width=400) as found:
        assert found.page.evaluate("window.hacked") is None
        assert found.requests == [(tmp_path / "report.html").as_uri()]
        assert found.problems == []
        assert found.page.locator("img, h1 b, .warnings b, article script:not([type])").count() == 0
        assert found.page.evaluate("document.documentElement.scrollWidth") == 400
        articles = found.page.locator("article")
        for index, name in enumerate(HOSTILE.values()):
            article = articles.nth(index)
            assert article.locator("dt:text-is('model') + dd").text_content() == name
            assert article.locator("h1").text_content()[:60] == name[:60]
            drawn = article.locator(".timeline .annotation-text").first.text_content()
            assert " ".join(name.split())[:9] in drawn
            assert article.locator(".alive .slicetext").first.text_content().startswith(" ".join(name.split())[:20])


def named(name: str) -> Result:
    """A result in which everything that has a name has this one."""
    result = estimate()
    return msgspec.structs.replace(
        result,
        scenario={**result.scenario, "model": name},
        device=msgspec.structs.replace(result.device, name=name),
        peak=msgspec.structs.replace(result.peak, module=name),
        modules_at_peak=[{**row, "module": f"{name}.{row['module']}"} for row in result.modules_at_peak],
        warnings=[name],
    )

"""A real browser for tests of reports: the distribution's Chromium, driven by playwright; nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE_MS = 120_000


@dataclass
class Opened:
    """A report in the browser, and what it did besides showing itself."""

    page: Page
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def chart(self, section: str) -> Any:
        """The figure of a section."""
        return self.page.locator(f"section.{section} .chart").first

    def data(self, section: str, expression: str) -> Any:
        """A value of a section's figure, as Plotly holds it: ``layout.xaxis.range``, ``data[0].level``."""
        return self.chart(section).evaluate(f"chart => chart.{expression}")

    def barriers(self, *rules: str) -> list[str]:
        """What axe calls a serious or critical violation, of these rules or of all."""
        options = {"runOnly": list(rules)} if rules else None
        found = Axe().run(self.page, options=options).response["violations"]
        return [
            f"{rule['id']}: {[node['html'][:200] for node in rule['nodes'][:3]]}"
            for rule in found
            if rule["impact"] in ("serious", "critical")
        ]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; a machine without one skips, but not in CI, which installs it."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        reason = "no Chromium on this machine: apt-get install chromium"
        pytest.fail(reason) if "CI" in os.environ else pytest.skip(reason)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, html: str, folder: Path, *, width: int = 1000, scheme: Any = "light") -> Iterator[Opened]:
    """A report, drawn to the last figure."""
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(_PATIENCE_MS)
    report = Opened(page)
    page.on("request", lambda request: report.requests.append(request.url))
    page.on("console", lambda message: report.problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: report.problems.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn]")
    yield report
    context.close()

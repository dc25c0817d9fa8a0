"""Draws the README's screenshots of a report, light and dark: ``python -m tests.support.screenshots``."""

from __future__ import annotations

from pathlib import Path

from tests.support.browser import chromium

EXAMPLES = Path(__file__).parents[2] / "reports" / "examples"
SHOWN = "llama-13b-a100"


def main() -> None:
    with chromium() as browser:
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1200, "height": 1250}, color_scheme=scheme)
            page.goto((EXAMPLES / f"{SHOWN}.html").as_uri())
            page.wait_for_selector("html[data-drawn]")
            page.screenshot(path=EXAMPLES / f"{scheme}.png")


if __name__ == "__main__":
    main()

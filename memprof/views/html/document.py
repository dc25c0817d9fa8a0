"""Values in, one HTML file out: self-contained, escaped, bounded in size, the same bytes for the same values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module, resources
from typing import TYPE_CHECKING, Any

from memprof.errors import UsageError
from memprof.views.html.page import Page
from memprof.views.html.wording import cut

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_BYTES = 6_000_000
"""No report is larger; Plotly takes 4.8 MB of it."""
_PAGES = {
    "Result": "estimate",
    "SnapshotReport": "snapshot",
    "Comparison": "comparison",
    "CheckReport": "check",
    "Verification": "verification",
}
"""The name of a value's type to the module beside this one whose ``page`` turns it into a Page."""


def render(*values: Any) -> str:
    """The report on one value, or on several below each other.

    Raises:
        UsageError: jinja2 or plotly is not installed, or the values together would be larger than 6 MB.
    """
    return render_pages([page_of(value) for value in values])


def page_of(value: Any) -> Page:
    """The page of any value that has one."""
    module = import_module(f"memprof.views.html.{_PAGES[type(value).__name__]}")
    page: Page = module.page(value)
    return page


def render_pages(pages: Sequence[Page]) -> str:
    """Pages as a file."""
    try:
        import jinja2  # noqa: F401 - told apart from what else may fail
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        hint = "pip install 'memprof-gpu[report]'"
        raise UsageError(f"an HTML report needs {error.name}, which is not installed", hint) from None
    from markupsafe import Markup

    html = _environment().get_template("report.html.j2").render(
        pages=pages,
        title=cut(" and ".join(dict.fromkeys(page.title for page in pages)), 120),
        style=Markup(_asset("report.css")),
        script=Markup(_asset("report.js")),
        plotly=Markup(get_plotlyjs()),
    )  # fmt: skip
    size = len(html.encode())
    if size > MOST_BYTES:
        hint = "render fewer of them together"
        raise UsageError(f"a report on these {len(pages)} results would be {size / 1e6:.1f} MB, more than 6", hint)
    return html


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("memprof.views.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cut"] = cut
    environment.filters["css"] = css
    environment.filters["island"] = island
    return environment


def css(color: str) -> str:
    """A colour of the page as CSS."""
    return f"var(--{color[1:]})" if color.startswith("@") else color


def island(value: Any) -> Any:
    """JSON that can stand inside a script element: no character in it can end that."""
    import msgspec
    from markupsafe import Markup

    text = msgspec.json.encode(value).decode()
    for raw in "<>&\u2028\u2029":
        text = text.replace(raw, f"\\u{ord(raw):04x}")
    return Markup(text)


def _asset(name: str) -> str:
    return (resources.files("memprof.views.html") / "assets" / name).read_text(encoding="utf-8")

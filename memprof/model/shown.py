"""How a result shows itself in a notebook."""

from __future__ import annotations

from importlib import import_module


class Shown:
    """Mixed into results: notebooks ask a value for ``_repr_html_``.

    The view is named, not imported, so that the model neither loads nor knows one.
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        drawn: str = import_module("memprof.views.notebook").render(self)
        return drawn

"""What is alive at the peak: modules from the top down, components at the bottom, as wide as their bytes."""

from __future__ import annotations

from memprof.units import format_bytes
from memprof.views.html.figures.axes import BAND, INK, PAPER, layout
from memprof.views.html.figures.tree import Node
from memprof.views.html.page import Figure, Swatch
from memprof.views.html.palette import color_of
from memprof.views.html.wording import label
from memprof.views.phrases import spelled

_ROW_HEIGHT = 46
_DEEPEST_SHOWN = 8


def figure(nodes: list[Node], summary: str) -> Figure:
    """Boxes open on a click; the rows of the table below the figure open them by keyboard."""
    whole = max(nodes[0].total_bytes, 1)
    components = list(dict.fromkeys(node.component for node in nodes if node.component is not None))
    deepest = min(max(node.depth for node in nodes), _DEEPEST_SHOWN)
    return Figure(
        data=[
            {
                "type": "icicle",
                "ids": [node.key for node in nodes],
                "parents": [node.parent for node in nodes],
                "labels": [label(spelled(node.name) if node.component else node.name) for node in nodes],
                "values": [node.total_bytes for node in nodes],
                "text": [format_bytes(node.total_bytes) for node in nodes],
                "customdata": [f"{100 * node.total_bytes / whole:.1f} %" for node in nodes],
                "branchvalues": "total",
                "sort": False,
                "tiling": {"orientation": "v", "pad": 1},
                "pathbar": {"thickness": 26, "edgeshape": "/"},
                "marker": {
                    "colors": [color_of(node.component) if node.component else BAND for node in nodes],
                    "line": {"color": PAPER, "width": 1},
                },
                "texttemplate": "%{label}<br>%{text}",
                "hovertemplate": "%{label}<br>%{text}, %{customdata} of all<extra></extra>",
                "textposition": "middle center",
                "insidetextfont": {"size": 12},
                "outsidetextfont": {"color": INK},
                "leaf": {"opacity": 1},
                "maxdepth": _DEEPEST_SHOWN,
            }
        ],
        layout=layout(margin={"l": 0, "r": 0, "t": 30, "b": 0}, uniformtext={"minsize": 10, "mode": "hide"}),
        summary=summary,
        height=34 + _ROW_HEIGHT * (deepest + 1),
        legend=[Swatch(spelled(name), color_of(name)) for name in components] + [Swatch("module", BAND)],
    )

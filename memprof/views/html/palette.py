"""One colour for each component, in every figure, and the colours of verdicts.

The large components have six of Okabe and Ito's colours (https://jfly.uni-koeln.de/color/) and a violet, the small ones
those of Tol's muted scheme (https://personal.sron.nl/~pault/). A test looks at them through the eyes of people who are
blind to red, to green or to blue.
"""

from __future__ import annotations

COMPONENTS: dict[str, str] = {
    "weights": "#0072b2",
    "gradients": "#d55e00",
    "optimizer_states": "#009e73",
    "activations": "#e69f00",
    "temporaries": "#cc79a7",
    "kv_cache": "#56b4e9",
    "communication": "#8833dd",
    "workspace": "#882255",
    "buffers": "#332288",
    "inputs": "#44aa99",
    "rounding": "#8c8c8c",
    "unknown": "#707070",
    "fragmentation": "#a8a8a8",
    "context": "#aa4499",
    "communicators": "#999933",
}
UNNAMED = "#707070"

STATUS: dict[str, str] = {"fits": "#0072b2", "tight": "#e69f00", "does_not_fit": "#d55e00", "unknown": "#707070"}


def color_of(component: str) -> str:
    """A component's colour; grey for one that this version does not know."""
    return COMPONENTS.get(component, UNNAMED)

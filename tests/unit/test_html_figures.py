from __future__ import annotations

from itertools import combinations
from typing import Any

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.units import GiB
from memprof.views.html import document
from memprof.views.html.figures import accuracy, timeline
from memprof.views.html.figures.tree import REST, module_path, tree
from memprof.views.html.page import Figure
from memprof.views.html.palette import COMPONENTS
from memprof.views.html.wording import cut, label
from tests.support.reports import estimate, values

LARGE = ("weights", "gradients", "optimizer_states", "activations", "temporaries", "kv_cache", "communication")
# Machado et al. 2009, severity 1.0: https://www.inf.ufrgs.br/~oliveira/pubs_files/CVD_Simulation/CVD_Simulation.html
BLINDNESS = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
PAPERS = {"light": "#ffffff", "dark": "#171a20"}


def linear(color: str) -> list[float]:
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def seen(color: str, matrix: Any) -> list[float]:
    return [min(max(sum(a * c for a, c in zip(row, linear(color), strict=True)), 0), 1) for row in matrix]


def lab(rgb: list[float]) -> list[float]:
    """CIE L*a*b* of linear sRGB, D65."""
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(a * c for a, c in zip(row, rgb, strict=True)) for row in to_xyz]
    f = [v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (xyz[0] / 0.9505, xyz[1], xyz[2] / 1.089)]
    return [116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]


@pytest.mark.parametrize("matrix", BLINDNESS.values(), ids=BLINDNESS)
def test_large_components_are_told_apart_by_people_who_see_fewer_colours(matrix: Any) -> None:
    """A difference of 10 in CIE76 is seen at a glance; these are further apart."""
    for a, b in combinations(LARGE, 2):
        pair = [lab(seen(COMPONENTS[name], matrix)) for name in (a, b)]
        assert sum((x - y) ** 2 for x, y in zip(*pair, strict=True)) ** 0.5 > 15, (a, b)


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_large_components_stand_out_from_the_paper(paper: str) -> None:
    def luminance(color: str) -> float:
        return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear(color), strict=True))

    for name in LARGE:
        darker, lighter = sorted((luminance(COMPONENTS[name]), luminance(paper)))
        assert (lighter + 0.05) / (darker + 0.05) > 2, name


def test_every_component_of_the_model_has_a_colour_of_its_own() -> None:
    from memprof.model.timeline import Component

    assert {kind.value for kind in Component} < COMPONENTS.keys()
    assert len(set(COMPONENTS.values())) == len(COMPONENTS)


def without_variables(value: Any) -> Any:
    """Colours by variable of the page are the page's own; Plotly's checker wants real ones."""
    if isinstance(value, dict):
        return {key: without_variables(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_variables(item) for item in value]
    return "#000000" if isinstance(value, str) and value.startswith("@") else value


def drawn() -> list[Figure]:
    pages = [document.page_of(value) for kind in values().values() for value in kind]
    pairs = [accuracy.Pair("a", 3 * GiB, 2 * GiB, 2 * GiB, 4 * GiB), accuracy.Pair("<b>", GiB, GiB)]
    return [s.figure for page in pages for s in page.sections if s.figure is not None] + [accuracy.figure(pairs)]


def test_plotly_knows_every_field_of_every_figure_and_each_has_a_legend_and_a_summary() -> None:
    for figure in drawn():
        go.Figure({"data": without_variables(figure.data), "layout": without_variables(figure.layout)})
        assert figure.legend
        assert figure.summary


def test_a_device_that_is_far_out_of_reach_does_not_flatten_the_picture() -> None:
    moments = timeline.Moments(["a"] * 3, ["b"] * 3, ["c"] * 3, [1, 9, 5], {"weights": [1, 9, 5]})
    near = timeline.figure(moments, peak_text="peak", capacity=("card", 30))
    far = timeline.figure(moments, peak_text="peak", capacity=("card", 3000))
    assert any("card" in note["text"] for note in near.layout["annotations"])
    assert not any("card" in note["text"] for note in far.layout["annotations"])
    assert far.layout["yaxis"]["range"][1] < 20


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=300), st.integers(1, 50))
def test_thinning_keeps_order_and_the_first_of_the_highest(levels: list[int], most: int) -> None:
    rows = [[index, level] for index, level in enumerate(levels)]
    kept = timeline.thinned(rows, 1, most)
    assert len(kept) <= most
    assert kept == sorted(kept)
    assert next(row for row in kept if row[1] == max(levels)) == rows[levels.index(max(levels))]


HELD = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abc"), max_size=4).map(tuple),
        st.sampled_from(["weights", "gradients"]),
        st.integers(-5, 1 << 40),
    ),
    max_size=60,
)


@given(HELD, st.integers(1, 40))
def test_a_tree_holds_all_bytes_however_few_rows_it_tells_apart(held: list[Any], most: int) -> None:
    nodes = tree(held, most, "root")
    assert nodes[0].total_bytes == sum(size for *_, size in held if size > 0)
    children: dict[str, int] = {}
    for node in nodes[1:]:
        children[node.parent] = children.get(node.parent, 0) + node.total_bytes
    for node in nodes:
        if node.component is None:
            assert node.total_bytes == children.get(node.key, 0)
        else:
            assert node.own_bytes == node.total_bytes
    assert [node.key for node in nodes] == [str(index) for index in range(len(nodes))]
    assert any(node.name == REST for node in nodes) == (sum(size > 0 for *_, size in held) > most)


def test_an_index_stays_with_what_it_counts() -> None:
    assert module_path("model.layers.*.mlp") == ("model", "layers.*", "mlp")
    assert module_path("transformer.h.11.attn") == ("transformer", "h.11", "attn")
    assert module_path("") == ()


def test_the_icicle_is_the_peak() -> None:
    page = document.page_of(estimate())
    [icicle] = [s.figure for s in page.sections if s.key == "alive" and s.figure]
    assert icicle.data[0]["values"][0] == estimate().peak.requested_bytes


@given(st.text(max_size=300), st.integers(3, 60))
def test_cut_text_keeps_its_beginning_and_end(text: str, most: int) -> None:
    short = cut(text, most)
    assert len(short) <= most
    assert short == text or (text.startswith(short.split("…")[0]) and "…" in short)


def test_labels_are_no_markup_and_one_line() -> None:
    assert label("<b>a</b>\n&lt;") == "&lt;b&gt;a&lt;/b&gt; &amp;lt;"

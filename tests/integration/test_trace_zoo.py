"""Traced steps of small Hugging Face models equal the same steps really run on the CPU, as its profiler sees them.

In CI each two settings of two factors meet in some cell; the whole grid is behind the ``slow`` marker, with a recorded
summary under ``reports``.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from tests.support.real_step import CHECKPOINTING, DTYPES, WAYS, Cell, grid, pairwise
from tests.support.trace_grid import error, row, summary
from tests.support.zoo import ZOO

RECORD = Path(__file__).parents[2] / "reports" / "trace_zoo.json"
MEDIAN, P90, WORST = 0.0005, 0.005, 0.02

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of what they deprecate


@pytest.mark.parametrize("cell", list(pairwise()), ids=str)
def test_a_traced_peak_is_the_real_one(cell: Cell) -> None:
    found = row(cell)
    far = error(found)
    assert far is None or far <= P90, found


def test_the_zoo_holds_at_least_25_architectures_and_each_pair_of_settings() -> None:
    assert len({entry.name for entry in ZOO}) >= 25
    cells = list(pairwise())
    assert len({(c.entry.name, c.way) for c in cells}) == len(ZOO) * len(WAYS)
    assert len({(c.entry.name, c.precision) for c in cells}) == len(ZOO) * len(DTYPES)
    assert len({(c.entry.name, c.checkpointing) for c in cells}) == len(ZOO) * len(CHECKPOINTING)
    assert len({(c.way, c.precision, c.checkpointing) for c in cells}) == 4 * len(WAYS)


@pytest.mark.skipif(not RECORD.exists(), reason="record it with python -m tests.support.trace_grid")
def test_the_recorded_grid_is_whole_and_close() -> None:
    record = json.loads(RECORD.read_text())
    rows = record["rows"]
    assert [found["cell"] for found in rows] == [str(cell) for cell in grid()]
    assert record["summary"] == summary(rows)
    assert_close(record["summary"])


@pytest.mark.slow
def test_every_cell_of_the_grid_is_close() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(summary(row(cell) for cell in grid()))


def assert_close(found: dict[str, float]) -> None:
    assert found["median"] <= MEDIAN
    assert found["p90"] <= P90
    assert found["worst"] <= WORST

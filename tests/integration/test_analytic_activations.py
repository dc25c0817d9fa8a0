"""What autograd saves in small real models on the CPU, against the engine: byte for byte, op by op."""

from __future__ import annotations

import random
from collections import Counter
from itertools import groupby, product

import pytest

from memprof.analytic.step import Saved
from tests.support import draws
from tests.support.referee import Case, Kept, kept, played, saved_by_autograd

GRID = pytest.mark.parametrize(
    ("family", "precision", "attention"),
    list(product(draws.FAMILIES, ("fp32", "bf16", "bf16-mixed"), ("sdpa", "eager"))),
)


@GRID
def test_saved_storages_equal_the_engine_s_to_the_byte(family: str, precision: str, attention: str) -> None:
    compare(draws.drawer(), family, precision, attention)


@pytest.mark.slow
@GRID
def test_saved_storages_equal_the_engine_s_over_many_shapes(family: str, precision: str, attention: str) -> None:
    draw = draws.drawer()
    for _ in range(12):
        compare(draw, family, precision, attention)


def compare(draw: random.Random, family: str, precision: str, attention: str) -> None:
    """One drawn shape for each of {no, full} checkpointing x dropout {off, on}."""
    for checkpointing, dropout in product(("none", "full"), (0.0, 0.1)):
        batch, length = draws.shape(draw)
        if family == "gpt2" and attention == "sdpa" and dropout:
            length = max(length, 2)  # a lone token's value would be copied out of GPT-2's joined projection
        config = draws.config(draw, family)
        compare_case(Case(config, batch, length, precision, attention, checkpointing, dropout))


def compare_case(case: Case) -> None:
    measured = saved_by_autograd(case)
    play = played(case)
    predicted = list(kept(play))
    assert sum(k.num_bytes for k in predicted) == sum(k.num_bytes for k in measured), str(case)
    if case.checkpointing == "full":  # the library enters a checkpointed layer before the layer's own module is entered
        measured, predicted = without_module(measured), without_module(predicted)
    assert Counter(predicted) == Counter(measured), str(case)
    if case.num_layers <= 2:
        assert_same_order(play.saved, measured, case)


def assert_same_order(saved: list[Saved], measured: list[Kept], case: Case) -> None:
    """Op by op; the order in which one op saves its tensors is its own."""
    start = 0
    for (op, module), group in groupby(saved, key=lambda s: (s.op, s.module)):
        sizes = [s.num_bytes for s in group]
        real = [k.num_bytes for k in measured[start : start + len(sizes)]]
        assert sorted(sizes) == sorted(real), (op, module, start, str(case))
        start += len(sizes)
    assert start == len(measured)


def without_module(storages: list[Kept]) -> list[Kept]:
    return [kept._replace(module="") for kept in storages]

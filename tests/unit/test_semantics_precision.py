"""The precision x strategy table: complete, consistent, and what torch's autocast does on a CPU."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from memprof.errors import UnsupportedError
from memprof.model.dtypes import ITEM_BYTES
from memprof.model.scenario import Precision, Strategy
from memprof.semantics.precision import PLANS, plan

ZERO = ("zero1", "zero2", "zero3")
SIXTEEN = {"bf16": "bfloat16", "fp16": "float16"}


def test_every_pair_has_a_row_but_pure_fp16_under_zero() -> None:
    pairs = {(p, s) for p in get_args(Precision) for s in get_args(Strategy)}
    assert pairs - set(PLANS) == {("fp16", s) for s in ZERO}
    with pytest.raises(UnsupportedError, match="fp16-mixed"):
        plan("fp16", "zero2")


@pytest.mark.parametrize("pair", PLANS)
def test_rows_name_known_dtypes_and_their_source(pair: tuple[Precision, Strategy]) -> None:
    row = PLANS[pair]
    named = (row.weights, row.compute, row.gradient, row.reduced, row.states, row.gather, row.reduce)
    assert set(named) <= set(ITEM_BYTES)
    assert "http" in row.source or "wheel" in row.source or "accelerate" in row.source


@pytest.mark.parametrize("strategy", get_args(Strategy))
@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_mixed_precision_computes_in_sixteen_bits_and_keeps_states_in_thirty_two(strategy: Strategy, half: str) -> None:
    row = plan(f"{half}-mixed", strategy)
    assert row.compute == SIXTEEN[half]
    assert row.states == (row.master or row.weights) == "float32"
    assert (row.scaler is not None) == (half == "fp16")


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_pure_precision_uses_one_dtype(strategy: Strategy) -> None:
    row = plan("bf16", strategy)
    assert {row.weights, row.gradient, row.reduced, row.states, row.reduce, row.master or "bfloat16"} == {"bfloat16"}
    assert not row.autocast


def test_each_stage_shards_what_the_one_before_it_shards_and_more() -> None:
    def flags(strategy: Strategy) -> tuple[bool, bool, bool]:
        row = plan("bf16-mixed", strategy)
        return row.states_sharded, row.gradients_sharded, row.weights_sharded

    assert [flags(s) for s in ("none", "ddp")] == [(False, False, False)] * 2
    assert [flags(s) for s in ZERO] == [(True, False, False), (True, True, False), (True, True, True)]
    assert flags("fsdp") == flags("hsdp") == (True, True, True)


@pytest.mark.parametrize("strategy", ZERO)
def test_zero_has_masters_even_where_weights_already_have_their_dtype(strategy: Strategy) -> None:
    masters = {precision: plan(precision, strategy).master for precision in ("fp32", "bf16", "bf16-mixed")}
    assert masters == {"fp32": "float32", "bf16": "bfloat16", "bf16-mixed": "float32"}


def test_autocast_leaves_gradients_in_the_dtype_of_the_weights() -> None:
    row = plan("bf16-mixed", "none")
    linear = torch.nn.Linear(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = linear(torch.ones(2, 4))
    out.sum().backward()
    assert linear.weight.grad is not None
    assert str(out.dtype) == f"torch.{row.compute}"
    assert str(linear.weight.grad.dtype) == f"torch.{row.gradient}"

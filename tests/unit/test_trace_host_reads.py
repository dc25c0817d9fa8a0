"""What the host may read of fake tensors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from memprof.trace.host_reads import fake_tensors, known_value


@pytest.fixture(autouse=True)
def inside() -> Iterator[None]:
    torch.manual_seed(0)
    with fake_tensors():
        yield


def test_numbers_that_were_written_down_or_drawn_are_read() -> None:
    assert torch.tensor([1.5, 2.5]).sum().item() == 4.0
    assert [float(rate) for rate in torch.linspace(0, 1, 3)] == [0.0, 0.5, 1.0]
    assert 0 <= torch.rand([]).item() < 1


def test_a_mask_without_padding_is_seen_to_be_one() -> None:
    mask = torch.ones(2, 8, dtype=torch.long)
    assert torch.all(mask == 1)
    mask[0, -1] = 0
    assert not torch.all(mask == 1)
    assert mask.sum(-1).tolist() == [7, 8]


def test_results_have_the_shape_that_known_values_give_them() -> None:
    labels = torch.tensor([3, -100, 5])
    assert labels.nonzero().shape == (3, 1)
    hidden = torch.nn.Linear(4, 4)(torch.empty(3, 4))
    assert hidden[labels != -100].shape == (2, 4)


def test_what_follows_from_weights_is_not_known() -> None:
    weight = torch.empty(4, 4)
    with pytest.raises(DataDependentOutputException):
        (weight.sum() > 0).item()
    with pytest.raises(DynamicOutputShapeException):
        weight.nonzero()


def test_a_value_that_is_overwritten_is_forgotten_in_all_its_views() -> None:
    known = torch.zeros(4)
    row = known[1:3]
    assert known_value(row) is not None
    row.copy_(torch.empty(2))
    assert known_value(row) is None
    assert known_value(known) is None


def test_parameters_and_large_results_are_not_computed() -> None:
    assert known_value(torch.nn.Parameter(torch.ones(3))) is None
    assert known_value(torch.zeros(1 << 11)) is None


def test_a_router_spreads_its_tokens_evenly() -> None:
    _, chosen = torch.topk(torch.empty(6, 4), 2, dim=-1)
    counts = torch.nn.functional.one_hot(chosen, 4).sum((0, 1))
    assert counts.tolist() == [3, 3, 3, 3]


def test_weights_that_would_be_drawn_again_stay_as_they_are() -> None:
    assert torch.nn.init.trunc_normal_(torch.empty(64, 64), std=0.02).shape == (64, 64)


def test_an_optimizer_that_reads_norms_and_a_scaler_that_reads_infinities_step() -> None:
    weight = torch.nn.Parameter(torch.randn(8, 8))
    optimizer = torch.optim.Adafactor([weight], foreach=False)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(weight.square().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert set(optimizer.state[weight]) == {"step", "row_var", "col_var"}

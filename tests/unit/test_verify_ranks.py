"""Many ranks' answers become one: the first failure, or the highest peak; and what is refused before anything runs."""

from __future__ import annotations

import pytest

from memprof.errors import ConfigError, UnsupportedError
from memprof.measure.child import Answer
from memprof.measure.ranks import Rank, backend_of, launched
from memprof.model.evidence import Measurement
from memprof.model.scenario import Parallelism, Scenario
from memprof.verify.ranks import Told, merged, refuse_unready

DDP = Scenario(model="gpt2", device="cpu", parallelism=Parallelism(strategy="ddp", data=2))


def ran(num_bytes: int, place: int, reserved_bytes: int | None = None) -> Told:
    measured = Measurement(peak_requested_bytes=num_bytes, peak_reserved_bytes=reserved_bytes)
    return Told(Answer(status="ok", measured=measured), place)


def test_the_worst_rank_counts_and_every_ranks_peak_is_kept() -> None:
    answer = merged([ran(70, 2), ran(90, 3), ran(80, 1)])
    assert answer.status == "ok"
    assert (answer.measured.peak_requested_bytes, answer.measured.ranks) == (90, [70, 90, 80])


def test_on_cards_the_worst_is_the_one_that_reserves_most() -> None:
    answer = merged([ran(90, 1, reserved_bytes=100), ran(80, 2, reserved_bytes=120)])
    assert (answer.measured.peak_reserved_bytes, answer.measured.ranks) == (120, [90, 80])


def test_the_first_failure_is_the_cause_of_the_others() -> None:
    lost = Told(Answer(status="error", message="connection closed by peer"), 3)
    cause = Told(Answer(status="oom", message="tried to allocate"), 2)
    answer = merged([lost, ran(80, 1), cause])
    assert (answer.status, answer.message) == ("oom", "rank 2: tried to allocate")


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, None),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, Rank(5, 1, 8)),
        ({"RANK": "five", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, None),
    ],
)
def test_ranks_are_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], rank: Rank | None
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched() == rank


def test_a_world_of_another_size_is_refused() -> None:
    refuse_unready(None, {"ddp": DDP})
    refuse_unready(Rank(0, 0, 2), {"ddp": DDP})
    with pytest.raises(ConfigError, match="ddp has 2 ranks, but 4 were started"):
        refuse_unready(Rank(0, 0, 4), {"ddp": DDP})


@pytest.mark.parametrize(
    "parallelism",
    [Parallelism(pipeline=2), Parallelism(context=2), Parallelism(expert=2)],
)
def test_ranks_that_nobody_runs_are_refused(parallelism: Parallelism) -> None:
    with pytest.raises(UnsupportedError, match="verify does not run"):
        refuse_unready(None, {"run": Scenario(model="gpt2", parallelism=parallelism)})


def test_collectives_are_those_of_the_device_or_none() -> None:
    assert backend_of(Scenario(model="gpt2", device="cpu"), "run") is None
    assert [backend_of(DDP, meeting) for meeting in (None, "run")] == ["fake", "gloo"]
    on_card = Scenario(model="gpt2", parallelism=DDP.parallelism)
    assert [backend_of(on_card, meeting) for meeting in (None, "run")] == ["fake", "nccl"]

"""Runs over the ranks that torchrun or ``accelerate launch`` started: rank 0 leads, the others follow.

They speak through the store by which ranks find each other. Each rank runs its part in a process of its own, as a rank
alone does, so that what becomes of it is an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import msgspec

from memprof.errors import ConfigError
from memprof.measure.child import Answer, Request
from memprof.measure.ranks import Rank, refuse_unrun
from memprof.model.evidence import Measurement
from memprof.model.scenario import Scenario
from memprof.verify.run import measuring
from memprof.workload.parallel import world_size

_PATIENCE = timedelta(days=1)
"""Rank 0 may predict for long; torchrun ends all ranks where one dies."""


class Order(msgspec.Struct, frozen=True):
    """What each rank is to run, and for how long at most; None ends it."""

    request: Request | None
    time_limit_s: float = 0.0


class Told(msgspec.Struct, frozen=True):
    """A rank's answer, and as which of all it came."""

    answer: Answer
    place: int


class Leader:
    """Rank 0's side."""

    def __init__(self, rank: Rank, store: Any) -> None:
        self._rank, self._store = rank, store
        self._runs = count()
        self._run = ""

    def ask(self, request: Request, time_limit_s: float) -> Request:
        """Has the other ranks run it too; gives this rank's part of it."""
        self._run = f"memprof/{next(self._runs)}"
        request = msgspec.structs.replace(request, meeting=f"{self._run}/group")
        others = msgspec.structs.replace(request, tape=None)
        self._store.set(f"{self._run}/order", msgspec.json.encode(Order(others, time_limit_s)))
        return request

    def gather(self, own: Answer) -> Answer:
        """The answer of all ranks: the first that failed, else that of the highest peak, with every rank's."""
        tell(self._store, self._run, self._rank, own)
        keys = [f"{self._run}/{index}" for index in range(self._rank.world)]
        return merged([msgspec.json.decode(self._store.get(key), type=Told) for key in keys])

    def dismiss(self) -> None:
        """Nothing more is to be run."""
        self._store.set(f"memprof/{next(self._runs)}/order", msgspec.json.encode(Order(None)))


@contextmanager
def leading(rank: Rank | None) -> Iterator[Leader | None]:
    """While open, the other ranks wait for runs; None where there are none."""
    if rank is None:
        yield None
        return
    leader = Leader(rank, _store())
    try:
        yield leader
    finally:
        leader.dismiss()


def follow(rank: Rank) -> None:
    """Runs whatever rank 0 asks for, until it is done."""
    store = _store()
    for number in count():
        run = f"memprof/{number}"
        order = msgspec.json.decode(store.get(f"{run}/order"), type=Order)
        if order.request is None:
            return
        with measuring(order.request) as answered:
            tell(store, run, rank, answered(order.time_limit_s))


def tell(store: Any, run: str, rank: Rank, answer: Answer) -> None:
    """Leaves a rank's answer in the store."""
    place = store.add(f"{run}/answers", 1)
    store.set(f"{run}/{rank.number}", msgspec.json.encode(Told(answer, place)))


def merged(told: list[Told]) -> Answer:
    """One answer of those of all ranks, in their order."""
    failed = [(each.place, index) for index, each in enumerate(told) if each.answer.status != "ok"]
    if failed:
        _, index = min(failed)
        answer = told[index].answer
        return msgspec.structs.replace(answer, message=f"rank {index}: {answer.message}")
    worst = max((each.answer for each in told), key=lambda answer: _height(answer.measured))
    ranks = [each.answer.measured.peak_requested_bytes or 0 for each in told]
    return msgspec.structs.replace(worst, measured=msgspec.structs.replace(worst.measured, ranks=ranks))


def refuse_unready(rank: Rank | None, scenarios: Mapping[str, Scenario]) -> None:
    """Nothing where each scenario's ranks can be run, and are as many as were started, if any were.

    Raises:
        ConfigError: the first of which that does not hold.
    """
    for name, scenario in scenarios.items():
        refuse_unrun(scenario.parallelism, alone=rank is None)
        asked = world_size(scenario.parallelism)
        if rank is not None and asked != rank.world:
            raise ConfigError(
                f"{name} has {asked} rank{'s' * (asked != 1)}, but {rank.world} were started",
                f"start {asked}, or change parallelism",
            )


def _height(measured: Measurement) -> tuple[int, int]:
    return measured.peak_reserved_bytes or 0, measured.peak_requested_bytes or 0


def _store() -> Any:
    """The store of the environment's ranks; where torchrun does not host it, rank 0 does."""
    import torch.distributed as dist

    store, _, _ = next(dist.rendezvous("env://"))
    store.set_timeout(_PATIENCE)
    return store

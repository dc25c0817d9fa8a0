"""Estimates of many scenarios: each once, over the cores that there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from memprof import api
from memprof.errors import MemprofError, UnsupportedError
from memprof.model.result import Result
from memprof.model.scenario import Scenario

_FEW = 6
"""Up to so many, starting other processes costs more than it saves."""


class Refused(NamedTuple):
    """A MemprofError as values: an exception that crosses from one process to another loses its hint."""

    kind: type[MemprofError]
    message: str
    hint: str | None

    @staticmethod
    def of(error: MemprofError) -> Refused:
        return Refused(type(error), error.message, error.hint)


Answer = Result | Refused


def estimate(scenario: Scenario, engine: str = "analytic") -> Answer:
    """The result, or what memprof has against the scenario."""
    try:
        return api.estimate(scenario, engine=engine, timeline_points=0)
    except MemprofError as error:
        refused = Refused.of(error)
    if engine != "analytic" or not issubclass(refused.kind, UnsupportedError):
        return refused
    hints = (refused.hint, "or trace the model's own code with memprof check --engine auto, which needs torch")
    return refused._replace(hint=", ".join(hint for hint in hints if hint))


def estimate_all(scenarios: Iterable[Scenario], engine: str) -> dict[Scenario, Answer]:
    """Each distinct scenario's answer."""
    distinct = list(dict.fromkeys(scenarios))
    num_workers = min(_num_cores(), len(distinct) // _FEW)
    if num_workers < 2:
        return {scenario: estimate(scenario, engine) for scenario in distinct}
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(num_workers, mp_context=get_context("fork")) as pool:
        return dict(zip(distinct, pool.map(partial(estimate, engine=engine), distinct), strict=True))


def _num_cores() -> int:
    """Cores that this process may use; one where it cannot be forked, or not safely, as it has threads."""
    if not hasattr(os, "sched_getaffinity") or threading.active_count() > 1:
        return 1
    return len(os.sched_getaffinity(0))

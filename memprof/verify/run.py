"""A scenario run for real in a process of its own, beside what each engine predicts: one piece of evidence."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from memprof import __version__
from memprof.catalog.resolve import find_config
from memprof.measure.child import Answer, Request
from memprof.model.evidence import Environment, Evidence, Prediction
from memprof.model.scenario import Allocator, Scenario
from memprof.verify.predicting import Question, predict
from memprof.verify.process import Ended, started

if TYPE_CHECKING:
    from memprof.verify.ranks import Leader

ENGINES = ("analytic", "trace")
TIME_LIMIT_S = 300.0
_MEASURING, _PREDICTING = "memprof.measure.child", "memprof.verify.predicting"
_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The first is read by torch 2.9 and newer, the second by all."""


def run(
    scenario: Scenario,
    *,
    name: str,
    command: str = "",
    limit_bytes: int | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    tape: str | None = None,
    leader: Leader | None = None,
) -> Evidence:
    """Measures and, meanwhile, predicts a scenario; whatever happens to the run is its status, never an exception.

    Args:
        scenario: ``device`` says where: ``cpu``, or the catalog's name of the card that is there or stands in.
        name: of the record.
        command: what the user typed.
        limit_bytes: caps what the card's allocator may reserve.
        time_limit_s: after which the run is ended and counts as hung.
        tape: where the allocator's history goes; CUDA only.
        leader: of the other ranks that run it; None: this process is alone.
    """
    request = Request(scenario=scenario, limit_bytes=limit_bytes, tape=tape)
    if leader is not None:
        request = leader.ask(request, time_limit_s)
    with (
        measuring(request) as answered,
        started(_PREDICTING, msgspec.json.encode(Question(scenario, "trace"))) as predicting,
    ):
        predicted = {"analytic": predict(scenario, "analytic")}
        answer = answered(time_limit_s)
        if leader is not None:
            answer = leader.gather(answer)
        predicted["trace"] = _prediction(predicting.ended(time_limit_s))
    stated, config = portable(scenario)
    return Evidence(
        name=name,
        recorded_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        command=command,
        environment=answer.environment or Environment(device=scenario.device, limit_bytes=limit_bytes),
        scenario=stated,
        model_config=config,
        status=answer.status,
        message=answer.message,
        measured=answer.measured,
        predicted=predicted,
    )


def portable(scenario: Scenario) -> tuple[Scenario, dict[str, Any]]:
    """The scenario as a record states it: of a model that is named by its path, the file's name and its config."""
    path = Path(scenario.model)
    if not path.exists():
        return scenario, {}
    config, _ = find_config(scenario.model)
    return msgspec.structs.replace(scenario, model=path.name), config


@contextmanager
def measuring(request: Request) -> Iterator[Callable[[float], Answer]]:
    """Starts a real run; gives the function that waits for its answer, for so many seconds from the start."""
    with started(_MEASURING, msgspec.json.encode(request), _variables(request.scenario.allocator)) as process:
        yield lambda time_limit_s: _answer(process.ended(time_limit_s))


def _answer(ended: Ended) -> Answer:
    if ended.answer is None:
        return Answer(status=ended.status, message=ended.message)
    return msgspec.json.decode(ended.answer, type=Answer)


def _prediction(ended: Ended) -> Prediction:
    if ended.answer is None:
        return Prediction(memprof_version=__version__, refused=f"the trace {ended.message}")
    return msgspec.json.decode(ended.answer, type=Prediction)


def _variables(allocator: Allocator) -> dict[str, str]:
    """This process' environment, in which the allocator's settings are the scenario's alone."""
    variables = {name: value for name, value in os.environ.items() if name not in _ALLOCATOR_VARIABLES}
    fields = ((name, getattr(allocator, name)) for name in allocator.__struct_fields__)
    settings = ",".join(f"{name}:{value}" for name, value in fields if value not in (None, False))
    return variables | (dict.fromkeys(_ALLOCATOR_VARIABLES, settings) if settings else {})

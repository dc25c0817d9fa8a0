"""A training loop watched from within: each step's real peak beside the predicted one.

with memprof.watch("scenario.yaml") as watch:
    for batch in loader:
        with watch.step(batch):
            ...
    print(watch.steps[-1])
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from memprof import api
from memprof.errors import MemprofError
from memprof.integrations import mlflow_logging, oom_tape, real_memory
from memprof.integrations.derive import batch_of, scenario_of
from memprof.integrations.real_memory import Used
from memprof.measure.machine import has_cuda
from memprof.model.result import Result
from memprof.model.scenario import Batch, Scenario
from memprof.units import format_bytes

_MOST_STEPS = 10_000
_log = logging.getLogger("memprof")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step, as predicted for its largest micro-batch and as it was.

    Attributes:
        number: the first is 1.
        predicted: None where the engine does not model the scenario, which the log says once.
    """

    number: int
    batch: Batch
    predicted: Result | None
    used: Used

    @property
    def figures(self) -> dict[str, float]:
        """What is known, by the names under which it is logged: bytes, and the error as a share of what was used."""
        peak = None if self.predicted is None else self.predicted.peak
        known = {
            "memprof/predicted_allocated_bytes": None if peak is None else peak.allocated_bytes,
            "memprof/predicted_reserved_bytes": None if peak is None else peak.reserved_bytes,
            "memprof/allocated_bytes": self.used.allocated_bytes,
            "memprof/reserved_bytes": self.used.reserved_bytes,
            "memprof/resident_bytes": self.used.resident_bytes,
            "memprof/error": self.error,
        }
        return {name: float(value) for name, value in known.items() if value is not None}

    @property
    def error(self) -> float | None:
        """(Predicted - used) / used, of allocated bytes; None on a CPU, whose resident bytes are other ones."""
        if self.predicted is None or not self.used.allocated_bytes:
            return None
        return self.predicted.peak.allocated_bytes / self.used.allocated_bytes - 1


class Watch:
    """Follows the steps of one process; made by ``memprof.watch`` or a callback.

    It resets the peaks that CUDA's allocator and the system keep for this process. A scenario of a card is predicted
    where there is none, too; what is used is then the host's.

    Attributes:
        scenario: what is predicted; its batch is that of each step.
        steps: the latest.
    """

    def __init__(self, scenario: Scenario, *, engine: str = "analytic", tape: str | None = None) -> None:
        self.scenario = scenario
        self.steps: deque[Step] = deque(maxlen=_MOST_STEPS)
        self._engine = engine
        self._on_cuda = scenario.device != "cpu" and has_cuda()
        self._results: dict[Batch, Result | None] = {}
        self._largest = scenario.batch
        self._says_why = True
        if tape is not None:
            oom_tape.arm(tape, on_cuda=self._on_cuda)

    @contextmanager
    def step(self, batch: Mapping[str, Any] | None = None) -> Iterator[None]:
        """While open, one optimizer step runs; ``batch`` is its micro-batch, by default the scenario's."""
        self.begin()
        if batch is not None:
            self.see(batch)
        yield
        self.end(self.steps[-1].number + 1 if self.steps else 1)

    def begin(self) -> None:
        """A step begins."""
        self._largest = msgspec.structs.replace(self.scenario.batch, micro_batch_size=0)
        real_memory.reset(on_cuda=self._on_cuda)

    def see(self, batch: Mapping[str, Any]) -> None:
        """A micro-batch of the step."""
        shape = batch_of(batch, self.scenario)
        self._largest = max(self._largest, shape, key=_num_elements)

    def end(self, number: int) -> Step:
        """The step is over."""
        batch = self._largest if self._largest.micro_batch_size else self.scenario.batch
        used = real_memory.used(on_cuda=self._on_cuda)
        step = Step(number=number, batch=batch, predicted=self.predict(batch), used=used)
        self.steps.append(step)
        mlflow_logging.log_figures(step.figures, number)
        return step

    def predict(self, batch: Batch) -> Result | None:
        """What the engine says of a step of this shape; None, and a line in the log, where it says nothing."""
        if batch not in self._results:
            self._results[batch] = self._predicted(batch)
        return self._results[batch]

    def warn_before(self, batch: Mapping[str, Any], what: str) -> Result | None:
        """Says in the log where a step of such a batch would not fit; gives the prediction."""
        shape = batch_of(batch, self.scenario)
        result = self.predict(shape)
        if result is not None and result.verdict.status in ("does_not_fit", "tight"):
            needed, total = result.peak.reserved_bytes or result.peak.allocated_bytes, result.device.total_bytes
            _log.warning(
                "%s (%d x %d) %s: it needs %s of the %s that %s has",
                what,
                shape.micro_batch_size,
                shape.sequence_length or 1,
                "does not fit" if result.verdict.status == "does_not_fit" else "may not fit",
                format_bytes(needed),
                "?" if total is None else format_bytes(total),
                result.device.name,
            )
        return result

    def _predicted(self, batch: Batch) -> Result | None:
        try:
            result = api.estimate(msgspec.structs.replace(self.scenario, batch=batch), engine=self._engine)
            if not self._results:
                mlflow_logging.log_estimate(result)
            return result
        except MemprofError as error:
            if self._says_why:
                _log.warning("no prediction: %s", error)
            self._says_why = False
            return None


@contextmanager
def watch(
    what: Scenario | Mapping[str, Any] | str | Path | Any,
    *,
    arguments: Mapping[str, Any] | None = None,
    engine: str = "analytic",
    tape: str | None = None,
) -> Iterator[Watch]:
    """Watches a plain training loop; each of its steps goes into ``Watch.step``.

    Args:
        what: a scenario, its fields, the path of a scenario file, or the Hugging Face model that is trained.
        arguments: of a model: what ``TrainingArguments`` would say (``bf16``, ``optim``, ...).
        engine: ``analytic``, or ``trace``, which takes seconds for each new shape.
        tape: where the allocator's history goes on an out-of-memory error; CUDA only.

    Raises:
        MemprofError: no such scenario, or a model that has none.
    """
    with TemporaryDirectory(prefix="memprof-") as folder:
        scenario = _scenario(what, arguments or {}, Path(folder))
        yield Watch(scenario, engine=engine, tape=tape)


def _scenario(what: Any, arguments: Mapping[str, Any], folder: Path) -> Scenario:
    from memprof.importers.scenario_file import read
    from memprof.model.decode import decode

    if isinstance(what, Scenario):
        return what
    if isinstance(what, str | Path):
        return decode(read(str(what)))
    if isinstance(what, Mapping):
        return decode(dict(what))
    return scenario_of(arguments, what, folder)[0]


def _num_elements(batch: Batch) -> int:
    return batch.micro_batch_size * (batch.sequence_length or batch.image_size or 1)

"""Every recorded run predicted anew by today's code, without the machine that it ran on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from memprof import __version__
from memprof.catalog.bands import kind_of
from memprof.catalog.device_catalog import device
from memprof.catalog.resolve import is_factory
from memprof.engines import architecture_of
from memprof.errors import MemprofError
from memprof.model.accuracy import Accuracy, Run, Score
from memprof.model.evidence import Environment, Evidence, Measurement, Prediction
from memprof.model.scenario import Scenario, Software
from memprof.verify import scoring, store
from memprof.verify.predicting import predict
from memprof.verify.run import ENGINES

Progress = Callable[[str], None]

_OLDEST_TRACED = (4, 51)
"""What transformers did otherwise is known from here on: `memprof.trace.library_versions`."""
_PEAKS = ("requested", "allocated", "reserved")


def replay(
    records: Iterable[Evidence], *, engines: Sequence[str] = ENGINES, progress: Progress = lambda _: None
) -> Accuracy:
    """Each record's figures beside what the engines say of its scenario today."""
    runs: dict[str, Run] = {}
    scores: list[Score] = []
    num_records = num_unmeasured = 0
    for record in records:
        num_records += 1
        key = store.key(record)
        figures = list(measured_figures(record.measured))
        if record.status != "ok" or not figures:
            num_unmeasured += 1
            continue
        runs[key] = run_of(record)
        for engine in engines:
            progress(f"{record.name}: {engine}")
            scores += scores_of(key, figures, engine, predicted(record, engine))
    progress("")
    return accuracy(scores, runs, num_records=num_records, num_unmeasured=num_unmeasured)


def accuracy(scores: list[Score], runs: dict[str, Run], *, num_records: int, num_unmeasured: int = 0) -> Accuracy:
    """Scores with their statistics."""
    return Accuracy(
        memprof_version=__version__,
        num_records=num_records,
        num_unmeasured=num_unmeasured,
        rows=scoring.rows(scores, runs),
        runs=runs,
        scores=scores,
    )


def predicted(record: Evidence, engine: str) -> Prediction:
    """What an engine says today of a record's scenario, with the libraries that the run had.

    The trace engine runs transformers as installed and changes back what older releases did otherwise, as far as that
    is known; of a run with other code it says nothing.
    """
    if is_factory(record.scenario.model):
        refused = "its model is code of its own, which a replay never runs"
        return Prediction(memprof_version=__version__, refused=refused)
    release = _release(record.scenario.software.transformers or record.environment.versions.get("transformers"))
    if engine == "trace" and (release is None or release < _OLDEST_TRACED):
        oldest = ".".join(map(str, _OLDEST_TRACED))
        return Prediction(
            memprof_version=__version__, refused=f"the run had no transformers that is traced, {oldest} or newer"
        )
    with located(record) as scenario:
        return predict(_with_software(scenario, record.environment), engine)


@contextmanager
def located(record: Evidence) -> Iterator[Scenario]:
    """The scenario, its model's config in a file for as long as needed where the record brings one."""
    if not record.model_config:
        yield record.scenario
        return
    with tempfile.TemporaryDirectory(prefix="memprof-") as folder:
        path = Path(folder) / "config.json"
        path.write_bytes(msgspec.json.encode(record.model_config))
        yield msgspec.structs.replace(record.scenario, model=str(path))


def measured_figures(measured: Measurement) -> Iterator[tuple[str, str, int]]:
    """(metric, part, bytes) of all that a run showed of PyTorch's memory and of the device's."""
    for metric in _PEAKS:
        num_bytes = getattr(measured, f"peak_{metric}_bytes")
        if num_bytes:
            yield metric, "peak", num_bytes
    if measured.device_bytes:
        yield "device", "peak", measured.device_bytes
    for parts in (measured.phase_peak_bytes, measured.component_bytes):
        yield from (("requested", part, num_bytes) for part, num_bytes in parts.items() if num_bytes)


def scores_of(
    run: str, figures: Iterable[tuple[str, str, int]], engine: str, prediction: Prediction
) -> Iterator[Score]:
    """Each figure beside its prediction; parts that no engine speaks of are left out."""
    parts: dict[str, int | None] = {**prediction.phase_peak_bytes, **prediction.component_bytes}
    peaks = {metric: getattr(prediction, f"peak_{metric}_bytes") for metric in _PEAKS}
    peaks["device"] = prediction.device_bytes
    for metric, part, measured_bytes in figures:
        if part != "peak" and part not in parts:
            continue
        num_bytes = peaks[metric] if part == "peak" else parts[part]
        refused = "" if num_bytes is not None else prediction.refused or f"no {metric} bytes are predicted"
        yield Score(
            run=run,
            engine=engine,
            metric=metric,
            part=part,
            measured_bytes=measured_bytes,
            predicted_bytes=num_bytes,
            refused=refused,
        )


def run_of(record: Evidence) -> Run:
    """A record as its scores refer to it."""
    scenario = _with_task(record)
    training = scenario.mode == "train"
    architecture = device(record.environment.device).architecture
    checkpointing = scenario.checkpointing if isinstance(scenario.checkpointing, str) else "every n"
    settings = {
        "precision": scenario.precision,
        "mode": scenario.mode,
        "optimizer": scenario.optimizer.name if training else "none",
        "checkpointing": checkpointing,
        "adapter": scenario.adapter.type if scenario.adapter else "none",
        "quantization": scenario.quantization or "none",
        "strategy": scenario.parallelism.strategy,
        "compile": scenario.compile.mode if scenario.compile else "none",
        "device": architecture,
        "source": record.notes.get("publisher", record.source) or "memprof",
        "scenario": "partly assumed" if record.assumed else "stated",
    }
    return Run(
        kind=kind_of(scenario),
        architecture=architecture,
        settings={name: str(value) for name, value in settings.items()},
        family=str(record.notes.get("family", record.name)),
        is_stated=not record.assumed,
    )


def _with_task(record: Evidence) -> Scenario:
    """The scenario with the model's own task spelled out where the catalog knows it, as an estimate's is."""
    with located(record) as scenario:
        try:
            task = architecture_of(scenario.model, scenario.task).task
        except MemprofError:
            return record.scenario
    return msgspec.structs.replace(record.scenario, task=task)


def _with_software(scenario: Scenario, environment: Environment) -> Scenario:
    """The scenario on the versions that ran, where it does not name others."""
    ran = {name: version for name, version in environment.versions.items() if _release(version)}
    stated = scenario.software
    software = Software(
        torch=stated.torch or ran.get("torch"), transformers=stated.transformers or ran.get("transformers")
    )
    return msgspec.structs.replace(scenario, software=software)


def _release(version: str | None) -> tuple[int, ...] | None:
    """``(4, 51)`` of ``4.51.3``; None of what is no release."""
    parts = (version or "").split(".")[:2]
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else None

"""How far off predictions are: each recorded figure beside what an engine says of it today, and statistics of them."""

from __future__ import annotations

import msgspec

ACCURACY_VERSION = 1

ALL = "all"
"""The setting of a row that leaves nothing out."""


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A recorded run, as scores refer to it.

    Attributes:
        kind: of scenario and ``architecture``: of device; together what a band is for.
        settings: value by the name of the setting that scores are grouped by.
        family: runs of one family are near relatives, and say little more than one of them.
        is_stated: whether its source states all that the scenario says.
    """

    kind: str
    architecture: str
    settings: dict[str, str]
    family: str
    is_stated: bool = True


class Score(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One figure of one run beside one engine's.

    Attributes:
        run: its key in ``Accuracy.runs``.
        metric: ``requested``, ``allocated``, ``reserved`` or ``device``.
        part: ``peak``, a phase, or a component.
        predicted_bytes: None where the engine has no such figure; ``refused`` then says why.
    """

    run: str
    engine: str
    metric: str
    part: str
    measured_bytes: int
    predicted_bytes: int | None = None
    refused: str = ""

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.predicted_bytes is None else self.predicted_bytes / self.measured_bytes - 1


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of one engine, metric and part whose runs share a setting; errors as shares of what was measured.

    Attributes:
        num_runs, num_families: with an answer; statistics are of these, by size of the error.
        worst: with its sign: below zero is too little.
        under: share whose prediction is too low.
        refused: share without an answer, of all.
    """

    engine: str
    metric: str
    part: str
    setting: str
    value: str
    num_runs: int
    num_families: int
    median: float | None
    p95: float | None
    worst: float | None
    worst_run: str
    under: float | None
    refused: float


class Loosened(msgspec.Struct, frozen=True, kw_only=True):
    """Why a statistic may be worse than it once was."""

    engine: str
    metric: str
    part: str
    setting: str
    value: str
    statistic: str
    was: float
    now: float
    reason: str


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """All scores of a store and their statistics.

    Attributes:
        num_unmeasured: records without a figure of memory: runs that failed, for one.
        worse: what is worse than the store's summary says; none where it has none.
        reasons: for what this summary let become worse.
    """

    schema_version: int = ACCURACY_VERSION
    memprof_version: str
    num_records: int
    num_unmeasured: int = 0
    rows: list[Row] = []
    worse: list[Loosened] = []
    reasons: list[Loosened] = []
    runs: dict[str, Run] = {}
    scores: list[Score] = []


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A run that cannot be a record, and why."""

    name: str
    reason: str


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a file of runs: the files of the store that hold them, and those that no record holds."""

    added: list[str]
    left_out: list[LeftOut]

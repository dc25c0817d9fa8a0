"""What a verification shows: each prediction beside its measurement, and whether it is within tolerance."""

from __future__ import annotations

import msgspec

from memprof.model.evidence import Status

VERIFICATION_VERSION = 1


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One number of one run, as an engine predicted it and as it was measured.

    Attributes:
        metric: the field of ``Measurement``.
        error: (predicted - measured) / measured.
        tolerance: the highest absolute error that passes; None where none is set.
    """

    engine: str
    metric: str
    predicted: int
    measured: int
    error: float
    tolerance: float | None

    @property
    def passes(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.tolerance is None or abs(self.error) <= self.tolerance


class VerifiedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run and its pairs; ``refused`` says why an engine predicted nothing.

    Attributes:
        expected_oom: it ended out of memory, as predicted.
        only_recorded: no engine predicts such runs yet.
    """

    name: str
    status: Status
    message: str = ""
    device: str
    pairs: list[Pair] = []
    refused: dict[str, str] = {}
    step_s: float | None = None
    expected_oom: bool = False
    only_recorded: bool = False

    @property
    def passes(self) -> bool:
        """Whether it ran, was predicted by at least one engine, and every prediction is within tolerance.

        A run that ended out of memory passes where that was predicted, and one that no engine predicts yet by running.
        """
        if self.status == "oom":
            return self.expected_oom
        return (
            self.status == "ok" and (bool(self.pairs) or self.only_recorded) and all(pair.passes for pair in self.pairs)
        )


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """A whole verification."""

    schema_version: int = VERIFICATION_VERSION
    memprof_version: str
    runs: list[VerifiedRun]
    command: str = ""
    created_at: str = ""

    @property
    def num_failed(self) -> int:
        """Runs that did not pass."""
        return sum(not run.passes for run in self.runs)

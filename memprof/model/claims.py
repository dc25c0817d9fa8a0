"""What became of well-known statements: each as said, as predicted and as measured, with the verdict."""

from __future__ import annotations

from typing import Literal

import msgspec

CLAIMS_VERSION = 1

Verdict = Literal["holds", "does not hold", "not shown"]


class Range(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a figure lies if the statement is true; None: no end."""

    low: float | None = None
    high: float | None = None

    def __contains__(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one statement.

    Attributes:
        claim: the statement.
        runs: what was compared, by the names of the records.
        figure: one of ``memprof.verify.figures.FIGURES``.
        said: where it lies if the statement is true.
        predicted: by the trace engine, or where it says nothing by the analytic one; None where neither does.
        measured: None where a run did not end well.
        why: it was not measured.
    """

    claim: str
    runs: list[str]
    figure: str
    said: Range
    predicted: float | None
    measured: float | None
    why: str = ""

    @property
    def verdict(self) -> Verdict:
        """By what was measured alone."""
        if self.measured is None:
            return "not shown"
        return "holds" if self.measured in self.said else "does not hold"


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """All of them, on one kind of device."""

    schema_version: int = CLAIMS_VERSION
    memprof_version: str
    device: str
    tested: list[Tested]
    command: str = ""
    created_at: str = ""

    @property
    def num_failed(self) -> int:
        """Figures that no run shows; a statement that does not hold is no failure."""
        return sum(tested.verdict == "not shown" for tested in self.tested)

"""A Result: the answer to a scenario; its field names are the JSON contract."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from memprof.model.shown import Shown

SCHEMA_VERSION = 1


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """The three numbers, in bytes, and where the highest requested bytes are first reached."""

    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int | None
    device_bytes: int | None
    phase: str
    module: str


class DeviceSummary(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    total_bytes: int | None


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The lowest and the highest bytes that recorded runs of this kind point to; None where too few are recorded."""

    device_low_bytes: int | None = None
    device_high_bytes: int | None = None
    reserved_low_bytes: int | None = None
    reserved_high_bytes: int | None = None
    allocated_low_bytes: int | None = None
    allocated_high_bytes: int | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["fits", "tight", "does_not_fit", "unknown"]
    headroom_bytes: int | None


class Time(msgspec.Struct, frozen=True, kw_only=True):
    step_s: float | None = None
    tokens_per_s: float | None = None
    mfu: float | None = None


class HostBytes(msgspec.Struct, frozen=True, kw_only=True):
    load_peak: int | None = None
    offload: int = 0


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Column names and rows."""

    columns: list[str] = []
    rows: list[list[Any]] = []


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """Another way to run the same model: what changes, its peak and verdict, or why it cannot be told."""

    name: str
    change: dict[str, Any]
    allocated_bytes: int | None
    device_bytes: int | None
    status: Literal["fits", "tight", "does_not_fit", "unknown"]
    reason: str | None = None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    rung: Literal["analytic", "traced", "measured-cpu", "measured-gpu"]
    basis: str


class Made(msgspec.Struct, frozen=True, kw_only=True):
    command: str
    software: dict[str, str | None]
    created_at: str


class Result(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """See DESIGN: ``at_peak_bytes`` sums to ``peak.allocated_bytes``; ``device_bytes`` to reserved + overheads."""

    schema_version: int = SCHEMA_VERSION
    memprof_version: str
    engine: Literal["analytic", "trace", "measure"]
    scenario: dict[str, Any]
    device: DeviceSummary
    num_parameters: int
    num_trainable_parameters: int
    peak: Peak
    at_peak_bytes: dict[str, int]
    persistent_bytes: dict[str, int]
    phase_peak_bytes: dict[str, int | None]
    overhead_bytes: dict[str, int | None]
    bounds: Bounds = Bounds()
    verdict: Verdict
    time: Time = Time()
    host_bytes: HostBytes = HostBytes()
    timeline: Table = Table()
    modules_at_peak: list[dict[str, Any]] = []
    terms: list[dict[str, Any]] = []
    alternatives: list[Alternative] = []
    evidence: Evidence
    warnings: list[str] = []
    made: Made

    def check(self) -> None:
        """Parts sum to their whole; nothing is negative.

        Raises:
            AssertionError: an engine broke conservation; never the user's fault.
        """
        total = sum(self.at_peak_bytes.values())
        if total != self.peak.allocated_bytes:
            raise AssertionError(f"breakdown sums to {total}, peak is {self.peak.allocated_bytes}")
        if min(self.at_peak_bytes.values(), default=0) < 0:
            raise AssertionError(f"negative part in {self.at_peak_bytes}")

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.check.baseline import Entry
from memprof.check.evaluate import (
    Finding,
    against_baseline,
    against_limit,
    growth_of,
    severity,
    value_of,
    worst,
)
from memprof.model.check_report import Change, Limit, Metric
from memprof.model.result import Bounds, DeviceSummary, Peak, Result
from memprof.units import GiB
from tests.support.results import make_result

SIZES = st.integers(0, 200 * GiB)


def peak(reserved: int | None = None, device_bytes: int | None = None, **changes: Any) -> Result:
    allocated = make_result().peak.allocated_bytes
    numbers = {"requested_bytes": allocated, "allocated_bytes": allocated, "phase": "backward", "module": ""}
    return make_result(peak=Peak(**numbers, reserved_bytes=reserved, device_bytes=device_bytes), **changes)


def before(reserved: int | None = 10 * GiB, device: int | None = None) -> Entry:
    metrics = {"allocated": 9 * GiB, "reserved": reserved, "device": device}
    return Entry(metrics=metrics, components={"weights": 9 * GiB}, settings={})


def limit(num_bytes: int | None) -> Limit:
    return Limit(text="the limit", num_bytes=num_bytes)


@given(value=SIZES, bound=SIZES)
def test_a_known_value_fails_iff_it_is_above_its_limit(value: int, bound: int) -> None:
    result = peak(value, device=DeviceSummary(name="large", total_bytes=10**15))
    finding = against_limit(value_of(result, "reserved", None), limit(bound), result)
    assert (finding.status == "failed") == (value > bound)
    assert finding.status in ("passed", "failed")


@given(reserved=SIZES, bound=SIZES)
def test_an_unknown_value_never_passes_and_fails_only_by_its_floor(reserved: int, bound: int) -> None:
    result = peak(reserved)
    value = value_of(result, "device", None)
    assert value.num_bytes is None
    finding = against_limit(value, limit(bound), result)
    assert finding.status == ("failed" if reserved > bound else "unknown")


def test_an_unknown_device_value_says_what_to_do() -> None:
    value = value_of(peak(10 * GiB), "device", None)
    assert value.reason == "the CUDA context on top of 10.00 GiB reserved has not been measured"
    assert value.hint is not None
    assert value.hint.startswith("set metric: reserved, or context:")


def test_a_context_that_the_user_measured_makes_device_bytes_known() -> None:
    assert value_of(peak(10 * GiB), "device", GiB).num_bytes == 11 * GiB
    assert value_of(peak(10 * GiB, device_bytes=12 * GiB), "device", GiB).num_bytes == 12 * GiB


def test_without_a_caching_allocator_only_allocated_bytes_are_known() -> None:
    result = peak(None)
    for metric in ("device", "reserved"):
        value = value_of(result, metric, GiB)  # type: ignore[arg-type]
        assert (value.num_bytes, value.floor_bytes) == (None, result.peak.allocated_bytes)
        assert value.hint == "set metric: allocated"
    assert value_of(result, "allocated", None).num_bytes == result.peak.allocated_bytes


@pytest.mark.parametrize(
    ("bound", "status", "is_told"),
    [(9, "failed", False), (10, "failed", True), (11, "failed", True), (12, "warning", True), (13, "passed", False)],
)
def test_a_limit_inside_the_band_is_a_warning_that_says_so(bound: int, status: str, is_told: bool) -> None:
    result = peak(10 * GiB, 12 * GiB, bounds=Bounds(device_low_bytes=10 * GiB, device_high_bytes=13 * GiB))
    finding = against_limit(value_of(result, "device", None), limit(bound * GiB), result)
    assert finding.status == status
    told = "the limit lies inside the estimate's band, 10.00 GiB to 13.00 GiB"
    assert finding.reason == (told if is_told else None)


def test_a_limit_above_what_the_card_has_is_a_warning() -> None:
    result = peak(90 * GiB)
    finding = against_limit(value_of(result, "reserved", None), limit(100 * GiB), result)
    assert finding.status == "warning"
    assert finding.reason == "the limit is above the 79.19 GiB that h100-80gb has"


def test_a_share_of_an_unknown_memory_is_unknown() -> None:
    result = peak(device=DeviceSummary(name="cpu", total_bytes=None))
    finding = against_limit(value_of(result, "allocated", None), limit(None), result)
    assert finding.status == "unknown"
    assert finding.hint == "write the limit in bytes, such as 72 GiB"


def growth_status(result: Result, metric: Metric, entry: Entry, allowed: str, *changes: Change) -> Finding:
    growth = growth_of(result, metric, None, entry, allowed, list(changes))
    return against_baseline(growth, value_of(result, metric, None), has_entry=True)


@given(then=st.integers(1, 200 * GiB), now=SIZES, allowed=st.integers(0, 100))
def test_growth_fails_iff_it_is_above_what_is_allowed(then: int, now: int, allowed: int) -> None:
    finding = growth_status(peak(now), "reserved", before(then), f"{allowed} %")
    assert finding.status == ("failed" if now - then > then * allowed // 100 else "passed")


def test_growth_in_bytes_is_held_against_bytes() -> None:
    assert growth_status(peak(11 * GiB), "reserved", before(), "1 GiB").status == "passed"
    assert growth_status(peak(11 * GiB + 1), "reserved", before(), "1 GiB").status == "failed"


def test_unknown_device_bytes_are_compared_by_what_is_reserved() -> None:
    assert growth_status(peak(10 * GiB), "device", before(), "0 %").status == "passed"
    assert growth_status(peak(11 * GiB), "device", before(), "2 %").status == "failed"


@pytest.mark.parametrize("field", ["device", "parallelism.data", "software.torch"])
def test_growth_of_unknown_device_bytes_is_unknown_where_the_context_may_have_changed(field: str) -> None:
    change = Change(field=field, before=1, after=8)
    finding = growth_status(peak(10 * GiB), "device", before(), "2 %", change)
    assert finding.status == "unknown"
    assert finding.reason == f"the CUDA context may have changed with {field}"
    assert growth_status(peak(10 * GiB), "reserved", before(), "2 %", change).status == "passed"


def test_no_baseline_is_unknown_and_says_how_to_make_one() -> None:
    finding = against_baseline(None, value_of(peak(GiB), "reserved", None), has_entry=False)
    assert finding.status == "unknown"
    assert finding.hint == "run memprof check --update-baseline and commit the file"


def test_a_metric_that_the_baseline_lacks_is_unknown() -> None:
    finding = growth_status(peak(10 * GiB), "reserved", before(reserved=None), "2 %")
    assert (finding.status, finding.reason) == ("unknown", "the baseline lacks this metric")


def test_a_known_context_counts_on_both_sides() -> None:
    growth = growth_of(peak(11 * GiB), "device", GiB, before(), "10 %", [])
    assert growth is not None
    assert (growth.before_bytes, growth.increase_bytes) == (11 * GiB, GiB)
    assert growth.allowed is not None
    assert growth.allowed.num_bytes == 11 * GiB // 10


def test_the_gravest_finding_decides() -> None:
    findings = [Finding(status, "limit") for status in ("passed", "unknown", "failed", "warning")]  # type: ignore[arg-type]
    assert worst(findings).status == "failed"
    assert worst([findings[0], findings[1], findings[3]]).status == "unknown"


@pytest.mark.parametrize(
    ("status", "level", "counts_as"),
    [
        ("passed", "error", None), ("warning", "error", "warning"), ("failed", "error", "error"),
        ("unknown", "error", "error"), ("unknown", "warn", "warning"), ("failed", "info", "note"),
        ("warning", "info", "note"),
    ],
)  # fmt: skip
def test_the_level_says_what_a_finding_counts_as(status: Any, level: Any, counts_as: str | None) -> None:
    assert severity(status, level) == counts_as

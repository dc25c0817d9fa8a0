"""What an estimate makes of the bands that are recorded."""

from __future__ import annotations

import msgspec
import pytest

from memprof import api
from memprof.catalog import bands
from memprof.catalog.bands import Band, kind_of
from memprof.catalog.device_catalog import device
from memprof.check.amounts import amount
from memprof.check.evaluate import against_limit, value_of
from memprof.model.decode import decode
from memprof.units import MiB

SCENARIO = decode({"model": "gpt2", "precision": "fp32", "device": "rtx-3060-12gb", "batch": {"sequence_length": 128}})


def record(monkeypatch: pytest.MonkeyPatch, low: float, high: float, metric: str = "reserved") -> None:
    band = Band(
        rung="analytic", architecture="sm_86", kind="training, fp32", metric=metric,
        num_runs=9, num_families=3, low=low, high=high,
    )  # fmt: skip
    monkeypatch.setattr(bands, "_bands", lambda: [band])


def test_a_band_is_put_around_the_bytes_that_it_was_recorded_of(monkeypatch: pytest.MonkeyPatch) -> None:
    record(monkeypatch, 0.9, 1.25)
    result = api.estimate(SCENARIO)
    reserved = result.peak.reserved_bytes
    assert reserved is not None
    assert result.bounds.reserved_low_bytes == round(reserved * 0.9)
    assert result.bounds.reserved_high_bytes == round(reserved * 1.25)
    assert result.bounds.device_low_bytes is None
    assert result.bounds.allocated_low_bytes is None
    assert "9 recorded runs of 3 model families reserved -10.00 % to +25.00 %" in result.evidence.basis


def test_a_kind_that_is_not_recorded_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    record(monkeypatch, 0.9, 1.25)
    result = api.estimate(msgspec.structs.replace(SCENARIO, precision="bf16"))
    assert result.bounds == api.Bounds()
    assert result.evidence.basis.endswith(
        "no band: fewer than 5 runs of this kind are recorded (training, bf16; sm_86)"
    )


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [(1.0, 1.0, "fits"), (0.9, 1e4, "tight"), (1e3, 1e4, "does_not_fit"), (0.5, 0.6, "fits")],
)
def test_a_capacity_inside_the_band_is_tight(
    monkeypatch: pytest.MonkeyPatch, low: float, high: float, status: str
) -> None:
    record(monkeypatch, low, high)
    assert api.estimate(SCENARIO).verdict.status == status


def test_what_is_too_much_but_may_fit_by_the_band_is_tight(monkeypatch: pytest.MonkeyPatch) -> None:
    total = device("rtx-3060-12gb").total_bytes
    assert total is not None
    scenario = decode({"model": "gpt2-xl", "precision": "fp32", "device": "rtx-3060-12gb"})
    reserved = api.estimate(scenario).peak.reserved_bytes
    assert reserved is not None
    assert reserved > total
    assert api.estimate(scenario).verdict.status == "does_not_fit"
    record(monkeypatch, total / reserved / 2, 1.0)
    assert api.estimate(scenario).verdict.status == "tight"


@pytest.mark.parametrize("metric", ["reserved", "allocated", "device"])
def test_a_checks_limit_inside_the_band_is_a_warning(monkeypatch: pytest.MonkeyPatch, metric: str) -> None:
    record(monkeypatch, 0.9, 1.1, "allocated" if metric == "allocated" else "reserved")
    result = api.estimate(SCENARIO)
    value = value_of(result, metric, 400 * MiB)  # type: ignore[arg-type]
    assert value.num_bytes is not None
    for factor, status in ((1.05, "warning"), (1.2, "passed"), (0.95, "failed"), (0.8, "failed")):
        limit = amount(f"{round(value.num_bytes * factor)} B", None)
        assert against_limit(value, limit, result).status == status


def test_kinds_tell_apart_what_takes_other_memory() -> None:
    changes = (
        {}, {"mode": "inference"}, {"precision": "bf16"}, {"checkpointing": "full"}, {"adapter": {"rank": 8}},
        {"optimizer": {"name": "adamw-8bit"}}, {"parallelism": {"strategy": "fsdp", "data": 8}}, {"attention": "eager"},
        {"compile": {}}, {"allocator": {"expandable_segments": True}}, {"task": "image-classification"},
        {"mode": "inference", "batch": {"new_tokens": 5}},
        {"quantization": "nf4", "adapter": {"rank": 8}},
    )  # fmt: skip
    kinds = [kind_of(decode({"model": "gpt2"} | change)) for change in changes]
    assert len(set(kinds)) == len(changes)
    assert kinds[0] == "training, bf16-mixed"
    assert kind_of(decode({"model": "llama-13b", "batch": {"micro_batch_size": 64}})) == kinds[0]

"""Reserved memory of a result: the step played through the caching allocator, on the card it is asked for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from memprof import api
from memprof.catalog.device_catalog import device
from memprof.model.decode import decode
from memprof.model.result import Result
from memprof.units import MiB


def estimate(**changes: Any) -> Result:
    return api.estimate(decode({"model": "gpt2", "batch": {"micro_batch_size": 4}, **changes}))


def test_reserved_is_allocated_and_fragmentation_in_whole_segments() -> None:
    result = estimate()
    assert result.peak.reserved_bytes == result.peak.allocated_bytes + (result.overhead_bytes["fragmentation"] or 0)
    assert (result.peak.reserved_bytes or 0) % (2 * MiB) == 0
    assert result.peak.requested_bytes <= result.peak.allocated_bytes


def test_the_allocator_s_settings_are_followed() -> None:
    usual, expandable = estimate(), estimate(allocator={"expandable_segments": True})
    assert expandable.peak.requested_bytes == usual.peak.requested_bytes
    assert expandable.peak.reserved_bytes != usual.peak.reserved_bytes
    assert expandable.at_peak_bytes["rounding"] < usual.at_peak_bytes["rounding"]  # every block is split to its size


def test_a_setting_without_effect_is_a_warning() -> None:
    result = estimate(allocator={"garbage_collection_threshold": 0.8})
    assert any("garbage_collection_threshold" in warning for warning in result.warnings)


def test_what_is_not_known_is_null_with_a_warning() -> None:
    result = estimate()
    assert result.peak.device_bytes is None
    assert result.overhead_bytes["context"] is None
    assert any("CUDA context" in warning for warning in result.warnings)


def test_the_cpu_has_no_caching_allocator() -> None:
    result = estimate(device="cpu")
    assert result.peak.reserved_bytes is None
    assert result.peak.allocated_bytes == result.peak.requested_bytes
    assert result.verdict.status == "unknown"


@pytest.mark.parametrize(("batch", "status"), [(3, "fits"), (20, "does_not_fit")])
def test_the_verdict_is_of_reserved_bytes(batch: int, status: str) -> None:
    result = estimate(device="rtx-4060-8gb", batch={"micro_batch_size": batch})
    total, reserved = result.device.total_bytes, result.peak.reserved_bytes
    assert total is not None
    assert reserved is not None
    assert result.verdict.status == status
    assert result.verdict.headroom_bytes == total - reserved


def test_a_card_that_only_just_holds_the_step_makes_the_allocator_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between what is allocated and what would be cached without a limit, PyTorch gives cached memory back in time."""
    changes = {"model": "gpt2-medium", "precision": "bf16", "batch": {"micro_batch_size": 2, "sequence_length": 1000}}
    roomy = estimate(**changes)
    smaller = msgspec.structs.replace(device("h100-80gb"), total_bytes=(roomy.peak.reserved_bytes or 0) - 1)
    monkeypatch.setattr(api, "find_device", lambda _name: smaller)
    card = estimate(**changes)
    assert (card.peak.reserved_bytes or 0) <= (smaller.total_bytes or 0)
    assert card.verdict.status == "tight"


def test_memory_in_pieces_can_be_what_does_not_fit() -> None:
    """The card holds what is allocated, yet no freed piece is large enough, even after cached memory is given back."""
    card = estimate(device="rtx-3060-12gb", batch={"micro_batch_size": 7})
    assert card.peak.allocated_bytes < (card.device.total_bytes or 0)
    assert card.verdict.status == "does_not_fit"

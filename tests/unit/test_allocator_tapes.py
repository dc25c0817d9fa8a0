from __future__ import annotations

import pytest

from memprof.allocator import device, parse_conf, recorded_settings, replay
from memprof.allocator.settings import Settings
from memprof.catalog.device_catalog import device as find_device
from memprof.units import GiB
from tests.support.tapes import NAMES, segment_growth, tape

OOM = "a100_gnn_oom_expandable"
ORDINARY = [name for name in NAMES if not tape(name).expandable_segments]


def test_every_tape_is_here() -> None:
    assert len(NAMES) == 15
    assert [name for name in NAMES if name not in ORDINARY] == [OOM]


@pytest.mark.parametrize("name", ORDINARY)
def test_every_segment_is_taken_as_recorded(name: str) -> None:
    recorded = tape(name)
    result = replay(recorded)
    simulated = [
        (index, event.action, event.num_bytes) for index, event in result.segment_events if "free" not in event.action
    ]
    assert simulated == segment_growth(recorded)
    assert result.oom is None


@pytest.mark.parametrize("name", ORDINARY)
def test_peaks_and_ends_are_those_recorded(name: str) -> None:
    recorded = tape(name).recorded
    result = replay(tape(name))
    assert recorded is not None
    assert result.peak_reserved_bytes == recorded.peak_reserved_bytes
    assert result.end_reserved_bytes == recorded.end_reserved_bytes
    assert result.end_allocated_bytes == recorded.end_allocated_bytes
    assert result.peak_requested_bytes == recorded.peak_requested_bytes


def test_emptied_caches_are_found() -> None:
    name = "gpu_layerwise_calibration_empty_cache"
    result = replay(tape(name))
    assert len(result.empty_caches) == 28  # one a layer
    freed = [event for _, event in result.segment_events if event.action == "segment_free"]
    assert len(freed) == tape(name).column("action").count("segment_free")
    assert all(replay(tape(other)).empty_caches == [] for other in ORDINARY if other != name)


def test_the_run_that_died_dies_at_the_same_request_after_the_same_pages() -> None:
    recorded = tape(OOM)
    failed = recorded.column("action").index("oom")
    result = replay(recorded, device_bytes=find_device("a100-80gb").total_bytes)
    assert result.oom is not None
    assert (result.oom_index, result.oom.block_bytes) == (failed, recorded.events.size[failed])
    assert recorded.recorded is not None
    assert result.peak_reserved_bytes == recorded.recorded.peak_reserved_bytes
    assert result.end_reserved_bytes == recorded.recorded.end_reserved_bytes
    assert result.end_allocated_bytes == recorded.recorded.end_allocated_bytes
    pages = [
        (action, size)
        for action, size in zip(recorded.column("action"), recorded.events.size, strict=True)
        if action.startswith("segment")
    ]
    assert [(event.action, event.num_bytes) for _, event in result.segment_events] == pages


def test_the_run_that_died_has_room_on_a_larger_device() -> None:
    result = replay(tape(OOM), device_bytes=140 * GiB)
    assert result.oom is None
    assert replay(tape(OOM)).end_allocated_bytes == result.end_allocated_bytes


def test_other_settings_can_be_tried_on_a_tape() -> None:
    name = "gpu24_octree_nca_train"
    ordinary = replay(tape(name))
    expandable = replay(tape(name), parse_conf("expandable_segments:True"), empty_caches=ordinary.empty_caches)
    assert ordinary.peak_reserved_bytes > expandable.peak_reserved_bytes >= expandable.peak_allocated_bytes


def test_settings_of_a_tape_are_those_recorded() -> None:
    assert recorded_settings(tape(OOM)) == Settings(expandable_segments=True)
    assert recorded_settings(tape("h100_linear_grad")) == Settings()


def _wrong_tapes() -> set[str]:
    wrong = set()
    for name in ORDINARY:
        result = replay(tape(name))
        growth = [event for event in result.segment_events if event[1].action == "segment_alloc"]
        recorded = tape(name).recorded
        assert recorded is not None
        same_end = result.end_allocated_bytes == recorded.end_allocated_bytes
        if not same_end or len(growth) != len(segment_growth(tape(name))):
            wrong.add(name)
    return wrong


def test_only_small_segments_upward_and_large_ones_downward_suits_all_tapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_UPWARD_UNTIL", 1 << 50)
    assert _wrong_tapes() == {"gpu_layerwise_calibration_empty_cache"}
    monkeypatch.setattr(device, "_UPWARD_UNTIL", 0)
    assert _wrong_tapes() == {
        "gpu_lm4x512_ctx100_train_fp32", "gpu_lm4x512_ctx200_train_autocast", "gpu_lm4x512_ctx200_train_fp32",
    }  # fmt: skip

"""A snapshot of any generation, whole or starting late, gives back the tape it was made from."""

from __future__ import annotations

import copy
import pickle
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memprof.allocator.blocks import ALLOCATED, PENDING
from memprof.allocator.layout import lay_out
from memprof.errors import MeasurementError
from memprof.measure.rewind import recordings
from memprof.measure.snapshot import analyse
from memprof.measure.snapshot_pickle import parse_snapshot
from memprof.model.tape import ACTIONS
from memprof.tapes import write_tape
from memprof.views.snapshot_text import render
from memprof.views.terminal import PLAIN
from memprof.views.torch_snapshot import snapshot_of
from tests.support.snapshots import GENERATIONS, as_written_by
from tests.support.tapes import NAMES, tape

SMALL = "gpu_attention_8x4096x16_fwd_bwd"
OOM = "a100_gnn_oom_expandable"
DAMAGES = ("drop", "double", "move", "resize", "rename", "readdress", "segment", "state")


@cache
def newest(name: str) -> dict[str, Any]:
    recorded = tape(name).recorded
    capacity = recorded.peak_reserved_bytes if name == OOM and recorded is not None else None
    return snapshot_of(tape(name), device_bytes=capacity)


def dump(snapshot: Any, path: Path) -> Path:
    path.write_bytes(pickle.dumps(snapshot))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_the_report_on_a_tape_agrees_with_what_was_recorded(name: str, tmp_path: Path) -> None:
    recorded = tape(name).recorded
    assert recorded is not None
    write_tape(tape(name), tmp_path / "tape")
    report = analyse(tmp_path / "tape")
    assert report.kind == "tape"
    assert report.recorded["0"].peak_reserved_bytes == recorded.peak_reserved_bytes
    assert report.recorded["0"].end_reserved_bytes == recorded.end_reserved_bytes
    assert report.simulated == report.recorded
    (device,) = report.devices
    assert device.peak.requested_bytes <= device.peak.allocated_bytes <= device.peak.reserved_bytes
    assert max(row[1] for row in device.timeline.rows) == device.peak.allocated_bytes
    assert all(sum(row[4:]) == row[1] and min(row[4:]) >= 0 for row in device.timeline.rows)
    assert len(device.timeline.rows) <= 240


@pytest.mark.parametrize("name", NAMES)
def test_a_snapshot_made_from_a_tape_tells_the_same(name: str, tmp_path: Path) -> None:
    write_tape(tape(name), tmp_path / "tape")
    from_tape = analyse(tmp_path / "tape")
    from_pickle = analyse(dump(newest(name), tmp_path / "pickle"))
    assert from_pickle.kind == "pickle"
    assert from_pickle.recorded == from_tape.recorded
    assert from_pickle.simulated == from_tape.simulated
    assert from_pickle.devices[0].peak == from_tape.devices[0].peak
    assert from_pickle.devices[0].warnings == []


@pytest.mark.parametrize("version", GENERATIONS)
@pytest.mark.parametrize("name", [SMALL, OOM, "gpu24_octree_nca_train"])
def test_every_generation_of_the_layout_tells_the_same(version: str, name: str, tmp_path: Path) -> None:
    report = analyse(dump(as_written_by(version, newest(name)), tmp_path / "pickle"))
    expected = analyse(dump(newest(name), tmp_path / "newest"))
    assert (report.recorded, report.simulated) == (expected.recorded, expected.simulated)
    got, want = report.devices[0], expected.devices[0]
    assert got.at_peak_bytes == want.at_peak_bytes
    assert got.holders == want.holders
    assert (got.oom is None) == (name != OOM)
    assert (got.peak.time_us is None) == (GENERATIONS.index(version) < 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1])
def test_a_trace_that_starts_late_is_wound_back_to_the_state_in_which_it_starts(name: str, kept: float) -> None:
    """The whole trace, played to where the late one starts, leaves the segments that the late one begins with."""
    snapshot = newest(name)
    (trace,) = snapshot["device_traces"]
    start = len(trace) - int(len(trace) * kept)
    while trace[start]["action"] != "free_requested":  # between a segment and the block it was taken for is no state
        start += 1
    late = recordings(parse_snapshot({**snapshot, "device_traces": [trace[start:]]}), "late")[0]
    whole = recordings(parse_snapshot(snapshot), "whole")[0]
    before = msgspec.structs.replace(
        whole.tape,
        events=type(whole.tape.events)(
            **{column: getattr(whole.tape.events, column)[:start] for column in whole.tape.events.__struct_fields__}
        ),
    )
    expected = lay_out(before, device_bytes=84_202_749_952 if name == OOM else None)
    played = [
        (sum(block.size for block in blocks), [block.size for block in blocks if block.state in (ALLOCATED, PENDING)])
        for blocks in expected.result.allocator.segments()
    ]
    wound_back = [
        (segment.size, [size for size, block in segment.blocks if block is not None])
        for segment in late.tape.initial_segments
    ]
    assert sorted(wound_back) == sorted(played)


@pytest.mark.parametrize("name", NAMES)
def test_a_late_trace_is_simulated_from_its_initial_segments(name: str, tmp_path: Path) -> None:
    snapshot = newest(name)
    (trace,) = snapshot["device_traces"]
    report = analyse(dump({**snapshot, "device_traces": [trace[len(trace) // 2 :]]}, tmp_path / "late"))
    assert report.simulated == report.recorded


def test_a_snapshot_without_events_reports_the_moment_it_was_taken(tmp_path: Path) -> None:
    snapshot = newest("h100_lm2.7b_ctx128_fullstep_fp32")
    report = analyse(dump(snapshot["segments"], tmp_path / "segments only"))
    (device,) = report.devices
    assert device.peak.event == -1
    assert device.peak.allocated_bytes == sum(segment["allocated_size"] for segment in snapshot["segments"])
    assert device.peak.reserved_bytes == sum(segment["total_size"] for segment in snapshot["segments"])
    assert "no events were recorded" in device.warnings[0]


def test_several_devices_are_reported_apart(tmp_path: Path) -> None:
    first = newest(SMALL)
    second = {**newest(SMALL)["segments"][0], "device": 2}
    snapshot = {**first, "segments": [*first["segments"], second], "device_traces": [first["device_traces"][0], [], []]}
    report = analyse(dump(snapshot, tmp_path / "two"))
    assert [device.device for device in report.devices] == [0, 2]
    assert set(report.recorded) == {"0", "2"}
    assert report.recorded["2"].end_reserved_bytes == second["total_size"]


@pytest.mark.parametrize("skipped", ["free_requested", "free_completed"])
def test_a_free_of_which_one_half_was_skipped_is_whole(skipped: str, tmp_path: Path) -> None:
    """``_record_memory_history(skip_actions=...)``."""
    snapshot = newest(SMALL)
    (trace,) = snapshot["device_traces"]
    kept = [entry for entry in trace if entry["action"] != skipped]
    report = analyse(dump({**snapshot, "device_traces": [kept]}, tmp_path / "halves"))
    assert report.recorded == analyse(dump(snapshot, tmp_path / "whole")).recorded
    assert report.simulated == report.recorded


def test_events_that_fit_nothing_are_left_out_and_told(tmp_path: Path) -> None:
    snapshot = newest(SMALL)
    (trace,) = snapshot["device_traces"]
    lost = next(index for index, entry in enumerate(trace) if entry["action"] == "free_requested")
    broken = [*trace[:lost], *trace[lost + 2 :]]  # skip_actions, or a lost pair of events
    report = analyse(dump({**snapshot, "device_traces": [broken]}, tmp_path / "broken"))
    assert "fit neither" in report.devices[0].warnings[0]


def test_a_segment_that_is_there_was_not_given_back(tmp_path: Path) -> None:
    snapshot = newest(SMALL)
    (trace,) = snapshot["device_traces"]
    given_back = {**trace[3], "action": "segment_free", "device_free": 1 << 20}
    report = analyse(dump({**snapshot, "device_traces": [[given_back, *trace[4:]]]}, tmp_path / "there"))
    assert "fit neither" in report.devices[0].warnings[0]


def test_settings_that_are_not_modelled_leave_the_simulation_out(tmp_path: Path) -> None:
    snapshot = {**newest(SMALL), "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}}
    report = analyse(dump(snapshot, tmp_path / "async"))
    assert report.simulated == {"0": None}
    assert "not simulated" in report.devices[0].warnings[0]
    assert report.recorded["0"].peak_reserved_bytes == 3781165056


@given(st.data())
@settings(max_examples=60)
def test_a_snapshot_that_does_not_fit_together_is_reported_or_refused(data: st.DataObject) -> None:
    """Events dropped, doubled, swapped and resized, segments moved: an answer that adds up, or one line."""
    snapshot = copy.deepcopy(newest("h100_linear_no_grad" if data.draw(st.booleans()) else SMALL))
    trace = snapshot["device_traces"][0]
    for _ in range(data.draw(st.integers(1, 6))):
        at, to = data.draw(st.integers(0, len(trace) - 1)), data.draw(st.integers(0, len(trace) - 1))
        kind = data.draw(
            st.sampled_from(["drop", "double", "move", "resize", "rename", "readdress", "segment", "state"])
        )
        if kind == "drop":
            del trace[at : at + 3]
        elif kind == "double":
            trace.insert(to, dict(trace[at]))
        elif kind == "move":
            trace.insert(to, trace.pop(at))
        elif kind == "resize":
            trace[at]["size"] = data.draw(st.sampled_from([0, 1, 512, 1 << 20, 21 << 20, 1 << 40, (1 << 63) - 1]))
        elif kind == "rename":
            trace[at]["action"] = data.draw(st.sampled_from(sorted(ACTIONS)))
            trace[at].setdefault("device_free", 1 << 20)
            trace[at].setdefault("addr", 0)
        elif kind == "readdress":
            trace[at]["addr"] = trace[to].get("addr", 0) + data.draw(st.sampled_from([0, 256, 512, 1 << 21]))
        elif kind == "segment":
            del snapshot["segments"][at % len(snapshot["segments"])]
        elif snapshot["segments"]:
            blocks = snapshot["segments"][at % len(snapshot["segments"])]["blocks"]
            blocks[to % len(blocks)]["state"] = data.draw(st.sampled_from(["active_awaiting_free", "inactive"]))
        if not trace or not snapshot["segments"]:
            break
    with tempfile.TemporaryDirectory() as folder:
        path = dump(snapshot, Path(folder) / "odd")
        with suppress(MeasurementError):
            assert render(analyse(path), PLAIN, 5)

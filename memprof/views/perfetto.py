"""A tape as a Perfetto trace (protobuf): counters, and the lives of blocks in lanes by component.

The few messages that this takes are encoded here, which spares the core a protobuf runtime. Field numbers are those of
https://github.com/google/perfetto/blob/v50.1/protos/perfetto/trace/perfetto_trace.proto; a test decodes them with
Perfetto's own classes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from memprof.model.tape import Tape
from memprof.views.tracks import Span, Tracks, tracks_of

_SEQUENCE = 1  # trusted_packet_sequence_id: who wrote the packets; this file has one writer
_ROOT = 1  # uuid of the process' track
_SLICE_BEGIN, _SLICE_END, _COUNTER = 1, 2, 4  # TrackEvent.Type
_UNIT_SIZE_BYTES = 3  # CounterDescriptor.Unit


def render(tape: Tape, *, device_bytes: int | None = None) -> bytes:
    """The trace; a span that overlaps another of its component gets a lane of its own.

    Args:
        device_bytes: what the process could reserve at most; None: the device never ran out.
    """
    tracks = tracks_of(tape, device_bytes=device_bytes)
    timed = sorted([*_counter_events(tracks), *_span_events(tracks.spans)], key=lambda packet: packet[0])
    return b"".join([*_descriptors(tracks), *(packet for _, packet in timed)])


def _descriptors(tracks: Tracks) -> Iterator[bytes]:
    process = _bytes(3, _int(1, tracks.device + 1) + _text(6, f"cuda:{tracks.device} {tracks.title}"))
    yield _descriptor(_int(1, _ROOT) + process)
    for name, uuid in _counters(tracks).items():
        counter = _bytes(8, _int(3, _UNIT_SIZE_BYTES))
        yield _descriptor(_int(1, uuid) + _text(2, name) + counter + _int(5, _ROOT))
    for lane, group in sorted({(lane, span.group) for lane, span in _lanes(tracks.spans)}):
        yield _descriptor(_int(1, lane) + _text(2, group) + _int(5, _ROOT))


def _counter_events(tracks: Tracks) -> Iterator[tuple[int, bytes]]:
    uuids = _counters(tracks)
    for time_us, counter, value in tracks.levels:
        event = _int(9, _COUNTER) + _int(11, uuids[counter]) + _int(30, value)
        yield time_us, _event(time_us, event)


def _span_events(spans: list[Span]) -> Iterator[tuple[int, bytes]]:
    for lane, span in _lanes(spans):
        notes = _bytes(4, _text(10, "bytes") + _int(4, span.num_bytes))
        for name in ("module", "source"):
            if value := getattr(span, name):
                notes += _bytes(4, _text(10, name) + _text(6, value))
        begin = _int(9, _SLICE_BEGIN) + _int(11, lane) + _text(22, span.group) + _text(23, span.name) + notes
        yield span.start_us, _event(span.start_us, begin)
        yield span.end_us, _event(span.end_us, _int(9, _SLICE_END) + _int(11, lane))


def _counters(tracks: Tracks) -> dict[str, int]:
    names = dict.fromkeys(level.counter for level in tracks.levels)
    return {name: _ROOT + 1 + index for index, name in enumerate(names)}


def _lanes(spans: list[Span]) -> Iterator[tuple[int, Span]]:
    """The track (uuid) of each span: the first of its group that is free by then. Viewers join tracks of one name."""
    busy: dict[str, list[tuple[int, int]]] = {}  # group: (end, lane)
    num_lanes = 0
    for span in spans:
        lanes = busy.setdefault(span.group, [])
        if lanes and lanes[0][0] < span.start_us:
            lane = heapq.heappop(lanes)[1]
        else:
            num_lanes += 1
            lane = (1 << 16) + num_lanes
        heapq.heappush(lanes, (span.end_us, lane))
        yield lane, span


def _descriptor(body: bytes) -> bytes:
    return _bytes(1, _int(10, _SEQUENCE) + _bytes(60, body))


def _event(time_us: int, body: bytes) -> bytes:
    return _bytes(1, _int(8, time_us * 1000) + _int(10, _SEQUENCE) + _bytes(11, body))


def _int(field: int, value: int) -> bytes:
    """A field of wire type 0."""
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode("utf-8", "replace"))


def _bytes(field: int, value: bytes) -> bytes:
    """A field of wire type 2: text, or a message."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

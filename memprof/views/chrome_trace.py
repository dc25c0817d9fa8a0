"""A tape in Chrome's trace event format: chrome://tracing, https://ui.perfetto.dev and its trace processor read it.

Source: Trace Event Format,
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from typing import Any

import msgspec

from memprof.model.tape import Tape
from memprof.views.tracks import tracks_of


def render(tape: Tape, *, device_bytes: int | None = None) -> bytes:
    """Counters of allocated and reserved bytes, and each block's life as an asynchronous slice; times in microseconds.

    Args:
        device_bytes: what the process could reserve at most; None: the device never ran out.
    """
    tracks = tracks_of(tape, device_bytes=device_bytes)
    pid = tracks.device
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": pid, "name": "process_name", "args": {"name": f"cuda:{tracks.device} {tracks.title}"}}
    ]
    for time_us, counter, value in tracks.levels:
        name, unit = counter.split()  # viewers put them together again
        events.append({"ph": "C", "pid": pid, "ts": time_us, "name": name, "args": {unit: value}})
    for number, span in enumerate(tracks.spans):
        common = {"pid": pid, "tid": 0, "cat": span.group, "id": number, "name": span.name}
        args = {"bytes": span.num_bytes, "module": span.module, "source": span.source}
        events.append({**common, "ph": "b", "ts": span.start_us, "args": args})
        events.append({**common, "ph": "e", "ts": span.end_us})
    return msgspec.json.encode({"displayTimeUnit": "ns", "traceEvents": events})

"""A tape as the snapshot pickle that PyTorch's memory viewer opens (https://pytorch.org/memory_viz).

A tape has no addresses, so it is laid out by the simulator first. What a snapshot keeps of a stack is told by the
tape's own columns: operator, module and source line; the viewer colours blocks by ``category``, here the component.

Source of the layout: torch 2.13 wheel: torch/cuda/memory.py ``_snapshot``, torch/cuda/_memory_viz.py.
"""

from __future__ import annotations

import pickle
from typing import Any

from memprof.allocator.blocks import ALLOCATED, PENDING, Block
from memprof.allocator.layout import Layout, lay_out
from memprof.model.snapshot import FRAME_PREFIX
from memprof.model.tape import Tape

_STATES = {ALLOCATED: "active_allocated", PENDING: "active_awaiting_free"}


def render(tape: Tape, *, device_bytes: int | None = None) -> bytes:
    """The pickle of the snapshot that PyTorch would have written at the tape's end.

    Args:
        device_bytes: what the process could reserve at most; None: the device never ran out.
    """
    return pickle.dumps(snapshot_of(tape, device_bytes=device_bytes), protocol=4)


def snapshot_of(tape: Tape, *, device_bytes: int | None = None) -> dict[str, Any]:
    """The same as plain data."""
    layout = lay_out(tape, device_bytes=device_bytes)
    frames = _Frames(layout)
    return {
        "segments": [_segment(layout, blocks, frames) for blocks in layout.result.allocator.segments()],
        "device_traces": [*([] for _ in range(tape.device)), _trace(layout, frames)],
        "allocator_settings": tape.allocator_settings,
        "external_annotations": [],
    }


class _Frames:
    """The stack of each event and block, shared between those that have the same one."""

    def __init__(self, layout: Layout) -> None:
        tape = layout.tape
        columns = [tape.column(name) for name in ("op", "module", "site", "phase", "component")]
        known: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        rows = zip(*columns, strict=True)
        self.of_event = [known[row] if row in known else known.setdefault(row, _frames(*row)) for row in rows]
        self.category = tape.column("component")
        events = enumerate(zip(tape.column("action"), tape.events.block, strict=True))
        self.of_block = {block: index for index, (action, block) in events if action == "alloc"}


def _frames(op: str, module: str, source: str, phase: str, component: str) -> list[dict[str, Any]]:
    """Innermost first."""
    frames: list[dict[str, Any]] = []
    if op:
        frames.append({"name": f"at::_ops::{op}::call", "filename": "??", "line": 0})
    if source:
        place, _, function = source.partition(" ")
        filename, _, line = place.rpartition(":")
        frames.append({"name": function, "filename": filename, "line": int(line) if line.isdecimal() else 0})
    told = {"module": module, "phase": phase, "component": component}
    frames += [{"name": text, "filename": FRAME_PREFIX + name, "line": 0} for name, text in told.items() if text]
    return frames


def _segment(layout: Layout, blocks: list[Block], frames: _Frames) -> dict[str, Any]:
    first = blocks[0]
    return {
        "device": layout.tape.device,
        "address": first.address,
        "total_size": sum(block.size for block in blocks),
        "allocated_size": sum(block.size for block in blocks if block.state == ALLOCATED),
        "active_size": sum(block.size for block in blocks if block.state in _STATES),
        "requested_size": sum(block.requested for block in blocks if block.state in _STATES),
        "stream": first.home.stream,
        "segment_type": "small" if first.home.pool.is_small else "large",
        "segment_pool_id": (0, 0),
        "is_expandable": first.segment is not None,
        "frames": [],
        "blocks": [_block(layout, block, frames) for block in blocks],
    }


def _block(layout: Layout, block: Block, frames: _Frames) -> dict[str, Any]:
    state = _STATES.get(block.state, "inactive")
    index = frames.of_block.get(layout.by_address.get(block.address, -1)) if state != "inactive" else None
    return {
        "address": block.address,
        "size": block.size,
        "requested_size": block.requested if state != "inactive" else 0,
        "state": state,
        "frames": frames.of_event[index] if index is not None else [],
    }


def _trace(layout: Layout, frames: _Frames) -> list[dict[str, Any]]:
    tape, events = layout.tape, layout.tape.events
    trace = []
    for index, action in enumerate(tape.column("action")):
        entry: dict[str, Any] = {
            "action": action,
            "device_free" if action == "oom" else "addr": layout.addresses[index],
            "size": events.size[index],
            "stream": events.stream[index],
            "frames": frames.of_event[index],
        }
        if events.time_us:
            entry["time_us"] = events.time_us[index]
        if action == "alloc" and frames.category[index]:
            entry["category"] = frames.category[index]
        trace.append(entry)
    return trace

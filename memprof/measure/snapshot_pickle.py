"""PyTorch's memory snapshots, every layout since 2.0, as one typed Snapshot.

What a layout lacks is filled with what it means, never guessed: no ``requested_size`` is the block's first ``history``
entry or its size, no block ``address`` is the running sum within its segment, no ``time_us`` is None.

Source: torch/csrc/cuda/Module.cpp and memory_snapshot.cpp (what is written), torch 2.13 wheel: torch/cuda/memory.py
``_snapshot`` (what it means), torch/cuda/_memory_viz.py ``_block_extra_legacy`` (the layout with ``history``).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from memprof.errors import MeasurementError
from memprof.measure.plain_pickle import read_plain_pickle
from memprof.model.tape import ACTIONS

State = Literal["active_allocated", "active_awaiting_free", "inactive"]
_ACTIONS = frozenset((*ACTIONS, "snapshot"))
_STATES: dict[str, State] = {
    "active_allocated": "active_allocated",
    "active_pending_free": "active_awaiting_free",  # what the C++ side writes
    "active_awaiting_free": "active_awaiting_free",  # what the documentation names
    "inactive": "inactive",
}
_HINT = "give a file that torch.cuda.memory._dump_snapshot wrote"


class Frame(NamedTuple):
    """One line of a stack; ``line`` is 0 where only a C++ symbol is known."""

    filename: str
    line: int
    name: str


Stack = tuple[Frame, ...]
"""Innermost frame first; empty where none was recorded."""


class BlockState(msgspec.Struct, frozen=True):
    """A block at the moment of the snapshot; ``requested`` is its size in bytes before rounding."""

    address: int
    size: int
    requested: int
    state: State
    stack: Stack


class SegmentState(msgspec.Struct, frozen=True):
    """A segment at the moment of the snapshot; its blocks tile it."""

    device: int
    address: int
    size: int
    stream: int
    large: bool
    private_pool: tuple[int, int]
    expandable: bool
    blocks: list[BlockState]


class TraceEvent(NamedTuple):
    """One entry of a device's trace; ``address`` is the free device memory in bytes for an ``oom``."""

    action: str
    address: int
    size: int
    stream: int
    stack: Stack
    time_us: int | None


class Snapshot(msgspec.Struct, frozen=True):
    """What one snapshot says: final segments, and the (perhaps late-starting) trace of each device."""

    segments: list[SegmentState]
    traces: list[list[TraceEvent]]
    settings: dict[str, Any]


def read_snapshot(path: Path) -> Snapshot:
    """The snapshot in the pickle at ``path``.

    Raises:
        MeasurementError: the file is not a pickle of plain data, or not a snapshot.
    """
    try:
        return parse_snapshot(read_plain_pickle(path))
    except _MalformedError as error:
        raise MeasurementError(f"{path} is not a PyTorch memory snapshot: {error}", _HINT) from None


def parse_snapshot(data: Any) -> Snapshot:
    """``data`` as ``torch.cuda.memory._snapshot()`` returns it, or the bare segments of ``memory_snapshot()``."""
    if isinstance(data, list):
        data = {"segments": data}
    if not isinstance(data, dict) or "segments" not in data:
        raise _MalformedError("it has no segments")
    stacks = _Stacks()
    traces = _get(data, "device_traces", list, [])
    segments: list[SegmentState] = []
    for raw in _get(data, "segments", list):
        end = segments[-1].address + segments[-1].size if segments else 0
        segments.append(_segment(raw, stacks, end))
    _check_apart(segments)
    return Snapshot(
        segments=segments,
        traces=[[_event(event, stacks) for event in _check(trace, list, "device_traces")] for trace in traces],
        settings=_get(data, "allocator_settings", dict, {}),
    )


def _check_apart(segments: list[SegmentState]) -> None:
    ordered = sorted(segments, key=lambda segment: (segment.device, segment.address))
    for first, second in pairwise(ordered):
        if first.device == second.device and first.address + first.size > second.address:
            raise _MalformedError(f"segments overlap at address {second.address}")


class _MalformedError(ValueError):
    """The data is plain but is not shaped as a snapshot; the message names what is off."""


class _Stacks:
    """Frame lists as Stacks, each list that the file shares between entries read once."""

    def __init__(self) -> None:
        self._seen: dict[int, Stack] = {}
        self._interned: dict[Stack, Stack] = {}

    def read(self, frames: Any) -> Stack:
        key = id(frames)
        if key not in self._seen:
            stack = tuple(
                Frame(_get(frame, "filename", str), _get(frame, "line", int), _get(frame, "name", str))
                for frame in _check(frames, list, "frames")
            )
            self._seen[key] = self._interned.setdefault(stack, stack)
        return self._seen[key]


def _segment(raw: Any, stacks: _Stacks, following: int) -> SegmentState:
    """One segment; without an address it lies behind the one before it, at ``following``."""
    address = _size(raw, "address", following)
    size = _size(raw, "total_size")
    blocks, end = [], address
    for block in _get(raw, "blocks", list):
        blocks.append(_block(block, end, stacks))
        end += blocks[-1].size
    if end != address + size:
        raise _MalformedError(f"the blocks of a segment of {size} bytes sum to {end - address}")
    pool = _get(raw, "segment_pool_id", tuple, (0, 0))
    return SegmentState(
        device=_size(raw, "device", 0),
        address=address,
        size=size,
        stream=_get(raw, "stream", int, 0),
        large=_get(raw, "segment_type", str, "large") == "large",
        private_pool=(_check(pool[0], int, "segment_pool_id"), _check(pool[1], int, "segment_pool_id"))
        if len(pool) == 2
        else (0, 0),
        expandable=_get(raw, "is_expandable", bool, False),
        blocks=blocks,
    )


def _block(raw: Any, address: int, stacks: _Stacks) -> BlockState:
    size, state = _size(raw, "size"), _get(raw, "state", str)
    if state not in _STATES:
        raise _MalformedError(f"a block's state is {state[:40]!r}")
    history = _get(raw, "history", list, [])
    frames = _get(history[0] if history else raw, "frames", list, [])
    requested = _size(history[0], "real_size") if history else _size(raw, "requested_size", size)
    return BlockState(address, size, requested, _STATES[state], stacks.read(frames))


def _event(raw: Any, stacks: _Stacks) -> TraceEvent:
    action = _get(raw, "action", str)
    if action not in _ACTIONS:
        raise _MalformedError(f"a trace entry's action is {action[:40]!r}")
    return TraceEvent(
        action,
        _size(raw, "device_free" if action == "oom" else "addr", 0),
        _size(raw, "size", 0),
        _get(raw, "stream", int, 0),
        stacks.read(_get(raw, "frames", list, [])),
        _get(raw, "time_us", int, -1) if "time_us" in raw else None,
    )


_REQUIRED: Any = object()


def _get(raw: Any, key: str, kind: type, default: Any = _REQUIRED) -> Any:
    if type(raw) is not dict:
        raise _MalformedError(f"{type(raw).__name__} where a dict with {key!r} should be")
    value = raw.get(key, default)
    if value is _REQUIRED:
        raise _MalformedError(f"an entry has no {key!r}")
    return _check(value, kind, key)


def _check(value: Any, kind: type, key: str) -> Any:
    if type(value) is not kind:
        raise _MalformedError(f"{key!r} is {type(value).__name__}, not {kind.__name__}")
    return value


def _size(raw: Any, key: str, default: Any = _REQUIRED) -> int:
    value: int = _get(raw, key, int, default)
    if not 0 <= value < 1 << 63:
        raise _MalformedError(f"{key!r} is no size in bytes")
    return value

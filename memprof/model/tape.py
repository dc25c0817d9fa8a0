"""A Tape: what one device's caching allocator was asked for and did, as columns; the file format of a Timeline.

Version 1 has the fields up to ``phase``; version 2 added the columns ``module``, ``component``, ``site`` and
``time_us`` and the fields ``device`` and ``is_expandable``. Fields are only ever added, so version 2 reads version 1.
"""

from __future__ import annotations

from typing import Any

import msgspec

TAPE_VERSION = 2

ACTIONS = (
    "alloc", "free_requested", "free_completed", "oom",
    "segment_alloc", "segment_free", "segment_map", "segment_unmap",
)  # fmt: skip


class TapeSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment that existed at the first event: bytes, pool (``small`` or ``large``), and its blocks by address.

    A block is (bytes, id), or (bytes, None) where it is free.
    """

    size: int
    stream: int
    pool: str
    blocks: list[tuple[int, int | None]]
    is_expandable: bool = False


class TapeEvents(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of equal length; a column that was not recorded is empty.

    Attributes:
        action: one of ``ACTIONS``. An ``oom`` is a request that failed; it has no ``alloc``.
        block: an id that is the same from ``alloc`` to ``free_completed``, None for a segment's events.
        size: bytes: requested for a block's events, rounded for an ``oom``, the segment's or page run's otherwise.
        op: innermost ATen op. ``outer_op``: outermost. ``kernel``: innermost at::native function.
        phase: forward, backward, optimizer, ... ``module``: path in the model. ``component``: see ``Component``.
        site: ``file.py:12 function`` of the program's own code that asked.
        time_us: microseconds.

    All but ``block``, ``size``, ``stream`` and ``time_us`` are indices into the tape's ``names``.
    """

    action: list[int]
    block: list[int | None]
    size: list[int]
    stream: list[int]
    op: list[int] = []
    outer_op: list[int] = []
    kernel: list[int] = []
    phase: list[int] = []
    module: list[int] = []
    component: list[int] = []
    site: list[int] = []
    time_us: list[int] = []


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What the allocator reported, or what its own segment events add up to; bytes."""

    peak_reserved_bytes: int
    peak_requested_bytes: int
    end_reserved_bytes: int
    end_allocated_bytes: int
    num_events: int


class Tape(msgspec.Struct, frozen=True, kw_only=True):
    """One device's recording, or a prediction in the same form.

    Attributes:
        source: where the recording is from.
        history: ``complete from process start``, or how the state at the first event is known.
        allocator_settings: as a snapshot reports them; ``PYTORCH_CUDA_ALLOC_CONF`` is the string that was set.
        names: strings that the columns' indices stand for.
    """

    tape_version: int = TAPE_VERSION
    name: str
    source: str = ""
    gpu: str = ""
    torch: str = ""
    workload: str = ""
    history: str = ""
    device: int = 0
    allocator_settings: dict[str, Any] = {}
    expandable_segments: bool = False
    initial_segments: list[TapeSegment] = []
    names: list[str]
    events: TapeEvents
    recorded: Recorded | None = None

    def column(self, name: str) -> list[str]:
        """A column of names, spelled out; empty strings where it was not recorded."""
        indices: list[int] = getattr(self.events, name)
        return [self.names[index] for index in indices] if indices else [""] * len(self.events.action)

    def with_unique_blocks(self) -> Tape:
        """The same tape with a new id for each allocation: an id may serve again once its block is freed.

        Raises:
            ValueError: a block is freed that is not there, or allocated while it is.
        """
        live = {key: key for segment in self.initial_segments for _, key in segment.blocks if key is not None}
        following = max((key for key in (*live, *self.events.block) if key is not None), default=-1) + 1
        met = set(live)
        blocks: list[int | None] = []
        for action, key in zip(self.column("action"), self.events.block, strict=True):
            if key is not None and action == "alloc":
                if key in live:
                    raise ValueError(f"block {key} is allocated twice")
                live[key] = following if key in met else key
                following += key in met
                met.add(key)
            elif key is not None and key not in live:
                raise ValueError(f"block {key} is freed while it is not there")
            blocks.append(None if key is None else live.pop(key) if action == "free_completed" else live[key])
        return msgspec.structs.replace(self, events=msgspec.structs.replace(self.events, block=blocks))

    def check(self) -> None:
        """Columns are of equal length, indices and actions are known, segments are tiled by their blocks.

        Raises:
            ValueError: what does not hold.
        """
        events = self.events
        length = len(events.action)
        for name in events.__struct_fields__:
            column = getattr(events, name)
            if len(column) != length and (column or name in ("block", "size", "stream")):
                raise ValueError(f"column {name} has {len(column)} entries where action has {length}")
            is_text = name not in ("block", "size", "stream", "time_us")
            if is_text and column and not 0 <= min(column) <= max(column) < len(self.names):
                raise ValueError(f"column {name} points outside of names")
        unknown = {self.names[index] for index in set(events.action)} - set(ACTIONS)
        if unknown:
            raise ValueError(f"unknown action {min(unknown)!r}")
        if min(events.size, default=0) < 0:
            raise ValueError("a negative size")
        for segment in self.initial_segments:
            if sum(size for size, _ in segment.blocks) != segment.size:
                raise ValueError("an initial segment's blocks do not add up to it")
            if segment.pool not in ("small", "large"):
                raise ValueError(f"unknown pool {segment.pool!r}")

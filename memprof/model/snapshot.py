"""A SnapshotReport: what a recorded run held, who held it, why a request failed; its names are the JSON contract."""

from __future__ import annotations

from typing import Literal

import msgspec

from memprof.model.result import Table
from memprof.model.shown import Shown

SNAPSHOT_SCHEMA_VERSION = 1

# A snapshot that memprof exports tells what a tape knows in frames of the files "memprof module", "memprof phase", ...
FRAME_PREFIX = "memprof "


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes, and how often the allocator took memory from the device.

    Of a tape without addresses, ``peak_allocated_bytes`` counts blocks as large as the simulator makes them.
    """

    peak_reserved_bytes: int
    peak_allocated_bytes: int
    end_reserved_bytes: int
    num_segment_allocs: int


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks of one site: what they are for, who asked for them, and what they take at the peak and at the end."""

    component: str
    op: str
    module: str
    source: str
    num_blocks: int
    peak_bytes: int
    end_bytes: int


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """The memory after one event (its index in the recording; -1 before the first)."""

    event: int
    time_us: int | None
    phase: str
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int


class FreeBlocks(msgspec.Struct, frozen=True, kw_only=True):
    """Cached blocks that nobody uses, of one pool and stream."""

    pool: str
    stream: int
    num_blocks: int
    total_bytes: int
    largest_bytes: int


class Remedy(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay under another setting gave: whether the request is served, and the most that was reserved then."""

    setting: str
    serves: bool
    peak_reserved_bytes: int


class OutOfMemory(msgspec.Struct, frozen=True, kw_only=True):
    """A request that failed.

    Attributes:
        event: its index in the recording.
        requested_bytes: as recorded (rounded), and ``segment_bytes``: what it asks of the device.
        device_free_bytes: what the device still had; None where it was not recorded.
        capacity_bytes: the most that this process could reserve; ``capacity_known`` is False where it is only what it
            had reserved by then.
        too_small: cached blocks of the request's stream and pool, none of them large enough.
        reason: ``fragmentation`` where cached and free bytes together would have held it, else ``capacity``.
        reproduced: the simulator, given the same settings and capacity, fails at the same request.
        short_bytes: least memory more, or least use less, with which it is served; None where that is not known.
        remedies: other settings, each replayed.
    """

    event: int
    requested_bytes: int
    segment_bytes: int
    stream: int
    op: str
    module: str
    source: str
    allocated_bytes: int
    reserved_bytes: int
    device_free_bytes: int | None
    capacity_bytes: int
    capacity_known: bool
    too_small: FreeBlocks
    reason: Literal["capacity", "fragmentation"]
    reproduced: bool
    short_bytes: int | None
    remedies: list[Remedy]


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One device. ``at_peak_bytes``, with ``rounding`` and ``unknown``, sums to ``peak.allocated_bytes``."""

    device: int
    num_events: int
    settings: str
    peak: Moment
    at_peak_bytes: dict[str, int]
    holders: list[Holder]
    free_at_peak: list[FreeBlocks]
    oom: OutOfMemory | None
    timeline: Table
    warnings: list[str]

    def check(self) -> None:
        """Parts sum to their whole.

        Raises:
            AssertionError: memprof broke conservation; never the user's fault.
        """
        total = sum(self.at_peak_bytes.values())
        if total != self.peak.allocated_bytes:
            raise AssertionError(f"breakdown sums to {total}, peak is {self.peak.allocated_bytes}")
        held = sum(holder.peak_bytes for holder in self.holders)
        if held != total:
            raise AssertionError(f"holders sum to {held}, peak is {total}")


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """One site in two recordings; bytes."""

    component: str
    op: str
    module: str
    source: str
    peak_before_bytes: int
    peak_after_bytes: int
    end_before_bytes: int
    end_after_bytes: int


class SnapshotReport(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``memprof snapshot``; ``recorded`` and ``simulated`` are by device index.

    ``simulated`` comes from sizes, streams and order alone, starting from the recorded initial segments; None where the
    settings are not modelled.
    """

    schema_version: int = SNAPSHOT_SCHEMA_VERSION
    memprof_version: str
    file: str
    kind: Literal["pickle", "tape"]
    recorded: dict[str, Figures]
    simulated: dict[str, Figures | None]
    devices: list[DeviceReport]
    compared_with: str | None = None
    growth: list[Growth] = []
    command: str = ""

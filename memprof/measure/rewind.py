"""From a snapshot's final segments back to where its trace begins.

A trace is a ring buffer: it may start late, or not be there. The final state is exact, so walking the trace backwards
from it gives every event its block, and leaves at the end the segments and blocks that were there at the beginning.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

from memprof.allocator.device import placing_order
from memprof.allocator.rules import RULES, round_up
from memprof.measure.recording import BACKWARD, UNKNOWN, Held, Recording, Site
from memprof.measure.sites import read_site
from memprof.measure.snapshot_pickle import SegmentState, Snapshot, Stack, TraceEvent
from memprof.model.tape import Tape, TapeEvents, TapeSegment

_MISFIT = -1


def recordings(snapshot: Snapshot, name: str) -> list[Recording]:
    """One Recording for each device that has segments or events."""
    traces = {device: trace for device, trace in enumerate(snapshot.traces) if trace}
    found = []
    for device in sorted({*traces, *(segment.device for segment in snapshot.segments)}):
        segments = [segment for segment in snapshot.segments if segment.device == device]
        found.append(_Rewind(segments).run(device, traces.get(device, []), snapshot.settings, name))
    return found


@dataclass(slots=True)
class _Live:
    """A block that is alive at the moment the walk has reached; ``size`` is None until the final state tells it."""

    block: int
    requested: int
    size: int | None
    stack: Stack
    pending: bool


@dataclass(slots=True)
class _Range:
    """Memory of one segment, or mapped pages of an expandable one: ``[start, end)``."""

    start: int
    end: int
    stream: int
    pool: str
    expandable: bool


class _Rewind:
    """The state at a moment, moved backwards event by event."""

    def __init__(self, segments: list[SegmentState]) -> None:
        self.ids = count()
        self.live: dict[int, _Live] = {}
        self.ranges: list[_Range] = []
        self.num_unpaired = 0
        self.homeless: set[int] = set()
        self.uncompleted: set[int] = set()  # blocks freed by a request whose completion was not recorded
        self.unrequested: set[int] = set()  # and the other way round, as for one that was pending at the beginning
        for segment in (segment for segment in segments if segment.size):
            pool = "large" if segment.large else "small"
            start, end = segment.address, segment.address + segment.size
            self.ranges.append(_Range(start, end, segment.stream, pool, segment.expandable))
            for block in segment.blocks:
                if block.state != "inactive":
                    pending = block.state == "active_awaiting_free"
                    self.live[block.address] = _Live(next(self.ids), block.requested, block.size, block.stack, pending)

    def run(self, device: int, trace: list[TraceEvent], settings: dict[str, Any], name: str) -> Recording:
        trace = [event for event in trace if event.action != "snapshot"]
        blocks = [self._undo(event) for event in reversed(trace)][::-1]
        self.ranges.sort(key=lambda held: placing_order(held.start, held.end - held.start))
        segments = self._segments()
        self._forget_homeless(segments)
        kept = list(self._completed(trace, blocks))
        names = _Names()
        return Recording(
            tape=Tape(
                name=name,
                source="PyTorch memory snapshot",
                device=device,
                allocator_settings=settings,
                expandable_segments=_is_expandable(settings, self.ranges, trace),
                initial_segments=segments,
                events=_events(kept, names),
                names=names.names,
            ),
            held={live.block: Held(live.requested, read_site(live.stack)) for live in self.live.values()},
            segment_addresses=[held.start for held in self.ranges],
            addresses=[event.address for event, _ in kept],
            has_device_free=True,
            warnings=self._warnings(bool(trace)),
        )

    def _undo(self, event: TraceEvent) -> int | None:
        """Step back over one event; the block it is about, None for a segment's, ``_MISFIT`` where it fits nothing."""
        at, live = event.address, self.live.get(event.address)
        if event.action == "alloc":
            if live is None:
                self.num_unpaired += 1
                return _MISFIT
            del self.live[at]
            return live.block
        if event.action == "free_completed" or (event.action == "free_requested" and live is None):
            if live is not None:
                self.num_unpaired += 1
                return _MISFIT
            pending = event.action == "free_completed"
            self.live[at] = live = _Live(next(self.ids), event.size, None, (), pending)
            (self.unrequested if pending else self.uncompleted).add(live.block)
            return live.block
        if event.action == "free_requested":
            assert live is not None
            if not live.pending:
                self.num_unpaired += 1
                return _MISFIT
            live.pending = False
            self.unrequested.discard(live.block)
            return live.block
        if event.action in ("segment_alloc", "segment_map"):
            self._unmap(at, at + event.size)
        elif event.action in ("segment_free", "segment_unmap"):
            if any(held.start < at + event.size and at < held.end for held in self.ranges):
                self.num_unpaired += 1  # what was given back is there afterwards
                return _MISFIT
            self._map(event)
        return None

    def _forget_homeless(self, segments: list[TapeSegment]) -> None:
        """Blocks at addresses of no segment: events of theirs, or of their segment, are missing."""
        housed = {block for segment in segments for _, block in segment.blocks}
        self.homeless = {live.block for live in self.live.values()} - housed
        self.num_unpaired += len(self.homeless)
        self.live = {address: live for address, live in self.live.items() if live.block in housed}

    def _completed(self, trace: list[TraceEvent], blocks: list[int | None]) -> Iterator[tuple[TraceEvent, int | None]]:
        """The events that fit, each free with both its halves."""
        for event, block in zip(trace, blocks, strict=True):
            if block == _MISFIT or block in self.homeless:
                continue
            if event.action == "free_completed" and block in self.unrequested:
                yield event._replace(action="free_requested"), block
            yield event, block
            if event.action == "free_requested" and block in self.uncompleted:
                yield event._replace(action="free_completed"), block

    def _unmap(self, start: int, end: int) -> None:
        for held in [held for held in self.ranges if held.start < end and start < held.end]:
            self.ranges.remove(held)
            for part in ((held.start, start), (end, held.end)):
                if part[0] < part[1]:
                    self.ranges.append(_Range(*part, held.stream, held.pool, held.expandable))

    def _map(self, event: TraceEvent) -> None:
        """What was given back was there before; its pool is that of its neighbours, else the one its size tells."""
        start, end = event.address, event.address + event.size
        expandable = event.action == "segment_unmap"
        pool = "small" if event.size == RULES.small_segment else "large"
        if expandable:
            for held in [held for held in self.ranges if held.expandable and (held.end == start or held.start == end)]:
                self.ranges.remove(held)
                start, end, pool = min(start, held.start), max(end, held.end), held.pool
        if start < end:
            self.ranges.append(_Range(start, end, event.stream, pool, expandable))

    def _segments(self) -> list[TapeSegment]:
        addresses = sorted(self.live)
        segments = []
        for held in self.ranges:
            inside = addresses[bisect_left(addresses, held.start) : bisect_left(addresses, held.end)]
            segments.append(
                TapeSegment(
                    size=held.end - held.start,
                    stream=held.stream,
                    pool=held.pool,
                    blocks=list(self._tiles(held, inside)),
                    is_expandable=held.expandable,
                )
            )
        return segments

    def _tiles(self, held: _Range, addresses: list[int]) -> Iterator[tuple[int, int | None]]:
        """The blocks of one segment; one freed later took its request rounded, and a rest too small to split.

        Source: ``should_split`` in c10/cuda/CUDACachingAllocator.cpp, see ``allocator.rules``.
        """
        at = held.start
        for address, following in pairwise([*addresses, held.end]):
            live = self.live[address]
            if address > at:
                yield address - at, None
            size = live.size
            if size is None:
                size = round_up(max(live.requested, 1), RULES.min_block)
                rest = following - address - size
                if rest < 0 or (held.pool == "large" and not held.expandable and rest < RULES.large_remainder):
                    size += rest
            yield size, live.block
            at = address + size
        if at < held.end:
            yield held.end - at, None

    def _warnings(self, has_trace: bool) -> list[str]:
        found = []
        if not has_trace:
            found.append(
                "no events were recorded, so the peak is that of the moment of the snapshot; "
                "call torch.cuda.memory._record_memory_history() before the run"
            )
        if self.num_unpaired:
            found.append(f"{self.num_unpaired} events fit neither the final state nor each other and were left out")
        return found


def _is_expandable(settings: dict[str, Any], ranges: list[_Range], trace: list[TraceEvent]) -> bool:
    """As the settings say; the layouts before them show it by what was mapped."""
    said = settings.get("expandable_segments")
    if isinstance(said, bool):
        return said
    return any(held.expandable for held in ranges) or any(event.action == "segment_map" for event in trace)


class _Names:
    """The string table of a tape."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._indices: dict[str, int] = {}

    def column(self, texts: Iterable[str]) -> list[int]:
        return [self._index(text) for text in texts]

    def _index(self, text: str) -> int:
        index = self._indices.get(text)
        if index is None:
            index = self._indices[text] = len(self.names)
            self.names.append(text)
        return index


def _events(kept: list[tuple[TraceEvent, int | None]], names: _Names) -> TapeEvents:
    trace = [event for event, _ in kept]
    without_stack = BACKWARD if any(event.stack for event in trace) else UNKNOWN
    sites = [_site(event, without_stack) for event in trace]
    times = [event.time_us for event in trace if event.time_us is not None]
    return TapeEvents(
        action=names.column(event.action for event in trace),
        block=[block for _, block in kept],
        size=[event.size for event in trace],
        stream=[event.stream for event in trace],
        op=names.column(site.op for site in sites),
        phase=names.column(site.phase for site in sites),
        module=names.column(site.module for site in sites),
        component=names.column(site.component for site in sites),
        site=names.column(site.source for site in sites),
        time_us=times if len(times) == len(trace) else [],
    )


def _site(event: TraceEvent, without_stack: Site) -> Site:
    if event.action not in ("alloc", "oom"):
        return UNKNOWN
    return read_site(event.stack) if event.stack else without_stack

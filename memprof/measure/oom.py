"""Why a request failed, and what would have served it: found by replaying the recording under other settings."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from memprof.allocator.replay import replay
from memprof.allocator.rules import RULES, round_size, segment_size
from memprof.allocator.settings import Settings
from memprof.measure.ledger import Ledger
from memprof.model.snapshot import FreeBlocks, OutOfMemory, Remedy
from memprof.model.tape import Tape, TapeEvents
from memprof.units import MiB

# What PyTorch's own out-of-memory message and documentation name to try, as PYTORCH_ALLOC_CONF writes it.
_REMEDIES = (
    ("expandable_segments:True", {"expandable_segments": True}),
    ("max_split_size_mb:64", {"max_split_bytes": 64 * MiB}),
    ("max_split_size_mb:256", {"max_split_bytes": 256 * MiB}),
    ("max_split_size_mb:1024", {"max_split_bytes": 1024 * MiB}),
    ("large_segment_size_mb:64", {"large_segment_bytes": 64 * MiB}),
    ("roundup_power2_divisions:8", {"roundup_divisions": (8,) * 16}),
)
# A search for the missing bytes replays until it knows them to a segment's unit, or has played this many events.
_SEARCH_EVENTS = 3_000_000


def explain_oom(ledger: Ledger, tape: Tape, capacity: int, capacity_known: bool) -> OutOfMemory:
    """The first request of ``tape`` that failed.

    Args:
        ledger: of the same recording, with addresses.
        capacity: the most that the process could reserve, bytes.
    """
    index, placed_index = tape.column("action").index("oom"), ledger.oom_index
    assert placed_index is not None
    settings, tape = ledger.settings, _until(tape, index)
    size, stream = tape.events.size[index], tape.events.stream[index]
    block_bytes = round_size(size, settings.roundup_divisions)
    allocated, reserved = ledger.allocated[placed_index], ledger.reserved[placed_index]
    device_free = ledger.recording.addresses[placed_index] if ledger.recording.has_device_free else None
    served = _serves(tape, settings, capacity)[0]
    site = ledger.recording.sites()[placed_index]
    return OutOfMemory(
        event=index,
        requested_bytes=size,
        segment_bytes=segment_size(block_bytes, settings.large_segment_bytes),
        stream=stream,
        op=site.op,
        module=site.module,
        source=site.source,
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        device_free_bytes=device_free,
        capacity_bytes=capacity,
        capacity_known=capacity_known,
        too_small=_too_small(ledger, placed_index, block_bytes, stream),
        reason="fragmentation" if capacity - allocated >= block_bytes else "capacity",
        reproduced=not served,
        short_bytes=None if served else _short_bytes(tape, settings, capacity),
        remedies=list(_remedies(tape, settings, capacity)),
    )


def _until(tape: Tape, index: int) -> Tape:
    """The tape up to and with an event: what comes later is the program's clean-up."""
    columns = {name: getattr(tape.events, name)[: index + 1] for name in tape.events.__struct_fields__}
    return msgspec.structs.replace(tape, events=TapeEvents(**columns))


def _serves(tape: Tape, settings: Settings, capacity: int) -> tuple[bool, int]:
    """Whether every request of the tape, and the one that failed, is served; and the peak of reserved bytes."""
    result = replay(tape, settings, device_bytes=capacity)
    return result.oom is None, result.peak_reserved_bytes


def _remedies(tape: Tape, settings: Settings, capacity: int) -> Iterator[Remedy]:
    """Each other setting that the run did not have, on top of those that it had."""
    for name, changes in _REMEDIES:
        other = msgspec.structs.replace(settings, **changes)
        if other != settings:
            serves, peak = _serves(tape, other, capacity)
            yield Remedy(setting=name, serves=serves, peak_reserved_bytes=peak)


def _short_bytes(tape: Tape, settings: Settings, capacity: int) -> int | None:
    """The least capacity more that serves the request, by bisection; None where the search would take too long."""
    unit = RULES.segment_round
    fails, serves = 0, -(-(replay(tape, settings).peak_reserved_bytes - capacity) // unit)
    budget = _SEARCH_EVENTS
    while serves - fails > 1:
        budget -= len(tape.events.action)
        if budget < 0:
            return None
        middle = (fails + serves) // 2
        if _serves(tape, settings, capacity + middle * unit)[0]:
            serves = middle
        else:
            fails = middle
    return serves * unit


def _too_small(ledger: Ledger, index: int, block_bytes: int, stream: int) -> FreeBlocks:
    pool = "small" if block_bytes <= RULES.small_request else "large"
    none = FreeBlocks(pool=pool, stream=stream, num_blocks=0, total_bytes=0, largest_bytes=0)
    found = (blocks for blocks in ledger.free_at(index) if (blocks.pool, blocks.stream) == (pool, stream))
    return next(found, none)

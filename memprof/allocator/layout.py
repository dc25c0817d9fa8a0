"""Give a tape addresses: the simulator's own, with the segment events that go with them.

A tape says what was asked for, not where it lay. Viewers and exporters need places; these are the ones the simulated
allocator chose, which are the recorded ones up to where the driver put each segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import msgspec

from memprof.allocator.blocks import Block
from memprof.allocator.device import SegmentEvent
from memprof.allocator.replay import ReplayResult, replay
from memprof.allocator.settings import Settings
from memprof.model.tape import ACTIONS, Tape, TapeEvents


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A tape whose segment events are the simulated ones, and where everything lies.

    Attributes:
        tape: events after a failed request that the original tape knows nothing of are left out.
        addresses: of each event of ``tape``; for an ``oom`` the device's free bytes.
        sizes: bytes that each block takes, by id.
        by_address: the last block (id) that began at an address.
        result: of the replay that laid it out.
    """

    tape: Tape
    addresses: list[int]
    sizes: dict[int, int]
    by_address: dict[int, int]
    result: ReplayResult

    @property
    def initial(self) -> list[int]:
        """Blocks (ids) of the initial segments."""
        return [key for segment in self.tape.initial_segments for _, key in segment.blocks if key is not None]


def lay_out(tape: Tape, settings: Settings | None = None, *, device_bytes: int | None = None) -> Layout:
    """Play a tape and note where its blocks come to lie; each allocation gets an id of its own."""
    tape = tape.with_unique_blocks()
    places: dict[int, int] = {}
    by_address: dict[int, int] = {}
    sizes: dict[int, int] = {}

    def note(key: int | None, block: Block) -> None:
        if key is not None:
            places[key] = block.address
            by_address[block.address] = key
            sizes[key] = block.size

    result = replay(tape, settings, device_bytes=device_bytes, on_block=note)
    rows = list(_rows(tape, result))
    free_bytes = result.oom.device_free_bytes if result.oom is not None else 0
    return Layout(
        tape=_tape(tape, rows),
        addresses=[_address(tape, index, event, places, free_bytes) for index, event in rows],
        sizes=sizes,
        by_address=by_address,
        result=result,
    )


def _rows(tape: Tape, result: ReplayResult) -> Iterator[tuple[int, SegmentEvent | None]]:
    """The tape's event (index) or the segment event that it caused, in the order in which the allocator did them."""
    made = {index: list(group) for index, group in groupby(result.segment_events, key=lambda pair: pair[0])}
    actions = tape.column("action")
    for index, action in enumerate(actions):
        if index == result.oom_index and action != "oom":
            return
        for _, event in made.get(index, ()):
            yield index, event
        if not action.startswith("segment_"):
            yield index, None


def _tape(tape: Tape, rows: list[tuple[int, SegmentEvent | None]]) -> Tape:
    names = list(tape.names)
    indices = {name: index for index, name in enumerate(names)}
    for name in ("", *ACTIONS):
        if name not in indices:
            indices[name] = len(names)
            names.append(name)
    events = tape.events
    own: dict[str, Any] = {
        "action": [indices[event.action] if event else events.action[index] for index, event in rows],
        "block": [None if event else events.block[index] for index, event in rows],
        "size": [event.num_bytes if event else events.size[index] for index, event in rows],
        "stream": [event.stream if event else events.stream[index] for index, event in rows],
        "time_us": [events.time_us[index] for index, _ in rows] if events.time_us else [],
    }
    texts = {
        name: [indices[""] if event else column[index] for index, event in rows]
        for name in events.__struct_fields__
        if name not in own and (column := getattr(events, name))
    }
    return msgspec.structs.replace(tape, names=names, events=TapeEvents(**own, **texts))


def _address(tape: Tape, index: int, event: SegmentEvent | None, places: dict[int, int], free_bytes: int) -> int:
    if event is not None:
        return event.address
    block = tape.events.block[index]
    return free_bytes if block is None else places[block]

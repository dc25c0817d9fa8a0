"""Tape files: gzip-compressed JSON of a ``Tape``; read, written, and made from a Timeline."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import msgspec

from memprof.errors import MeasurementError
from memprof.model.tape import TAPE_VERSION, Tape, TapeEvents
from memprof.model.timeline import Action, Timeline
from memprof.units import GiB, format_bytes

SUFFIX = ".tape.json.gz"

# A tape of a million events is about 60 MB of JSON; a file that unpacks to more than this is no tape.
MAX_JSON_BYTES = 1 * GiB

_ACTION_NAMES = {
    Action.ALLOC: ("alloc",),
    Action.FREE: ("free_requested", "free_completed"),
    Action.FREE_REQUESTED: ("free_requested",),
    Action.FREE_COMPLETED: ("free_completed",),
}


_COLUMNS = ("action", "block", "size", "stream", "op", "phase", "module", "component")


class _Version(msgspec.Struct):
    tape_version: int


def read_tape(path: str | Path) -> Tape:
    """The tape in a file.

    Raises:
        MeasurementError: no such file, truncated, not a tape, or written by a newer memprof.
    """
    path = Path(path)
    try:
        with gzip.open(path) as file:
            text = file.read(MAX_JSON_BYTES + 1)
    except EOFError:
        raise MeasurementError(f"{path} ends too early to be a whole tape", "copy or record it again") from None
    except (gzip.BadGzipFile, zlib.error):
        raise MeasurementError(f"{path} is not gzip-compressed or is damaged", f"a tape ends in {SUFFIX}") from None
    except OSError as error:
        raise MeasurementError(f"cannot read {path}: {error.strerror}") from None
    if len(text) > MAX_JSON_BYTES:
        raise MeasurementError(f"{path} unpacks to more than {format_bytes(MAX_JSON_BYTES)}, too much for a tape")
    try:
        version = msgspec.json.decode(text, type=_Version).tape_version
        if version > TAPE_VERSION:
            raise MeasurementError(
                f"{path} is a tape of version {version}, this memprof reads up to {TAPE_VERSION}", "update memprof"
            )
        tape = msgspec.json.decode(text, type=Tape)
        tape.check()
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MeasurementError(f"{path} is not a tape: {error}") from None
    return tape


def write_tape(tape: Tape, path: str | Path) -> None:
    """Write a tape; the same tape gives the same bytes."""
    current = msgspec.structs.replace(tape, tape_version=TAPE_VERSION)
    Path(path).write_bytes(gzip.compress(msgspec.json.encode(current), mtime=0))


def tape_of(timeline: Timeline, *, name: str, expandable_segments: bool = False) -> Tape:
    """A Timeline's unrolled events as a tape; what the allocator did with them is for a replay to tell."""
    names: dict[str, int] = {}
    rows: list[tuple[int, ...]] = []
    width = len(timeline.blocks.num_bytes)
    for event in timeline.unroll():
        op, recorded = event.op, event.block % width
        texts = (
            timeline.ops.name[op],
            timeline.ops.phase[op].value,
            timeline.ops.module[op],
            timeline.blocks.component[recorded].value,
        )
        labels = [names.setdefault(text, len(names)) for text in texts]
        rows.extend(
            (names.setdefault(action, len(names)), event.block, event.num_bytes, event.stream, *labels)
            for action in _ACTION_NAMES[Action(event.action)]
        )
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in _COLUMNS]
    return Tape(
        name=name,
        expandable_segments=expandable_segments,
        names=list(names),
        events=TapeEvents(**dict(zip(_COLUMNS, columns, strict=True))),
    )

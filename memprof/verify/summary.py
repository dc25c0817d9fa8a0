"""The committed summary of a store: what accuracy was, what it may not fall behind, and why where it was let go."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from memprof.errors import MeasurementError
from memprof.model.accuracy import ACCURACY_VERSION, Accuracy, Loosened
from memprof.verify import scoring, store, versioned
from memprof.views.accuracy_rows import loosened as say


def read(path: Path) -> Accuracy:
    """A summary.

    Raises:
        MeasurementError: the file cannot be read, is damaged, or was written by a newer memprof.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read: {error.strerror}") from None
    hint = "write it anew with memprof verify --replay DIR --update-summary"
    return versioned.decoded(text, Accuracy, ACCURACY_VERSION, str(path), "summary of a replay", hint)


def of(folder: Path) -> Path:
    """Where a store keeps its summary."""
    return folder / store.SUMMARY


def loosened(before: Accuracy, after: Accuracy) -> list[Loosened]:
    """Each statistic that is worse than it was, over the figures that both speak of."""
    old, new = scoring.common(before.scores, after.scores)
    runs = before.runs | after.runs
    return scoring.worse(scoring.rows(old, runs), scoring.rows(new, runs))


def updated(before: Accuracy | None, after: Accuracy, reason: str) -> Accuracy:
    """The new summary; what is worse in it than before carries the reason.

    Raises:
        MeasurementError: something is worse, and there is no reason.
    """
    if before is None:
        return after
    let_go = loosened(before, after)
    if let_go and not reason:
        first = let_go[0]
        raise MeasurementError(
            f"{len(let_go)} statistics would be worse than in the summary, the first {say(first)}",
            "find out why; if it has to be, say so with --reason",
        )
    reasons = [msgspec.structs.replace(each, reason=reason) for each in let_go]
    return msgspec.structs.replace(after, reasons=[*before.reasons, *reasons])


def write(summary: Accuracy, path: Path) -> None:
    """Writes it in the place of the one before; whole or not at all.

    Raises:
        MeasurementError: it cannot be written.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        draft.write_bytes(encode(summary))
        draft.replace(path)
    except OSError as error:
        raise MeasurementError(f"{path} cannot be written: {error.strerror}", "choose another folder") from None
    finally:
        draft.unlink(missing_ok=True)


def encode(summary: Accuracy) -> bytes:
    """The file: one line for each row, run and score, so that a change shows what it moved."""
    fields = {name: msgspec.json.encode(getattr(summary, name)) for name in summary.__struct_fields__}
    for name in ("rows", "worse", "reasons", "scores"):
        fields[name] = _lines(b"[]", [msgspec.json.encode(each) for each in getattr(summary, name)])
    runs = [msgspec.json.encode(key) + b": " + msgspec.json.encode(run) for key, run in summary.runs.items()]
    fields["runs"] = _lines(b"{}", runs)
    return _lines(b"{}", [b'"%s": %s' % (name.encode(), text) for name, text in fields.items()]) + b"\n"


def _lines(brackets: bytes, items: list[bytes]) -> bytes:
    return brackets[:1] + b"\n" + b",\n".join(items) + b"\n" + brackets[1:] if items else brackets

"""The evidence store: a folder with one JSON file a run, added to and never changed.

A file is called by its run's name and a hash of its content, so that the same record is written once, and another run
of the same name stands beside the first.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from memprof.errors import MeasurementError
from memprof.model.evidence import EVIDENCE_VERSION, Evidence
from memprof.units import MiB, format_bytes
from memprof.verify import versioned

SUMMARY = "summary.json"
"""The store's own summary lies among the records."""
_MOST_BYTES = 16 * MiB
_HASH_DIGITS = 10


def write(record: Evidence, folder: Path) -> Path:
    """Adds a run to the store, below its device's name; the file is whole or not there.

    Raises:
        MeasurementError: the folder cannot be written, or the file is there and holds something else.
    """
    text = encode(record)
    path = folder / _plain(record.environment.device) / f"{_key(record.name, text)}.json"
    try:
        if path.exists():
            if path.read_bytes() != text:
                raise MeasurementError(f"{path} holds another record", "move it away; it was changed by hand")
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with draft.open("xb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise MeasurementError(f"{path} cannot be written: {error.strerror}", "choose another folder") from None
    return path


def key(record: Evidence) -> str:
    """What its file is called, without the suffix: unlike its name, no other record's."""
    return _key(record.name, encode(record))


def encode(record: Evidence) -> bytes:
    """A record as its file holds it."""
    fields = {"schema_version": record.schema_version, **msgspec.to_builtins(record)}
    return msgspec.json.format(msgspec.json.encode(fields), indent=1) + b"\n"


def read_all(folder: Path) -> list[Evidence]:
    """The records of a folder and of those below it, by file name.

    Raises:
        MeasurementError: there is none, or one of them cannot be read.
    """
    if not folder.is_dir():
        raise MeasurementError(f"{folder} is not a folder of evidence", "name one, such as reports/evidence")
    records = [read(path) for path in _files(folder)]
    if not records:
        raise MeasurementError(f"{folder} holds no evidence", "memprof verify records some, --import FILE adds others'")
    return records


def read(path: Path) -> Evidence:
    """One record.

    Raises:
        MeasurementError: the file cannot be read, is damaged, or was written by a newer memprof.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise MeasurementError(f"{path} is larger than {format_bytes(_MOST_BYTES)}, too much for a record")
        return decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read: {error.strerror}") from None


def decoded(text: bytes, name: str) -> Evidence:
    """The record that JSON text stands for; ``name`` is what an error calls it."""
    hint = "record the run again, or move the file away"
    return versioned.decoded(text, Evidence, EVIDENCE_VERSION, name, "record of a run", hint)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*.json")) if path.name != SUMMARY)


def _key(name: str, text: bytes) -> str:
    return f"{_plain(name)}-{hashlib.sha256(text).hexdigest()[:_HASH_DIGITS]}"


def _plain(name: str) -> str:
    """A name that any file system takes."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"

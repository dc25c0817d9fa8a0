"""Records of other machines and of others' tools, added to the store: what cannot be is listed with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from memprof.errors import MeasurementError, MemprofError
from memprof.model import consistency
from memprof.model.accuracy import Imported, LeftOut
from memprof.model.evidence import Evidence
from memprof.units import MiB, format_bytes
from memprof.verify import recorder, store

_MOST_BYTES = 256 * MiB


def import_file(path: Path, folder: Path) -> Imported:
    """Adds each line of a file to the store: a record of memprof's, or a case of ``record_runs.py``.

    Nothing is written before every line has been read.

    Raises:
        MeasurementError: the file cannot be read, a line is neither of the two, or the folder cannot be written.
    """
    records: list[Evidence] = []
    left_out: list[LeftOut] = []
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path}:{number}"
        fields = _fields(line, where)
        read = _reader(fields, where)
        try:
            record = read(line)
            consistency.check(record.scenario)
            records.append(record)
        except MemprofError as error:
            if isinstance(error, MeasurementError):
                raise
            name = fields.get("name") or fields.get("id") or f"line {number}"
            left_out.append(LeftOut(name=str(name), reason=str(error)))
    return Imported(added=[str(store.write(record, folder)) for record in records], left_out=left_out)


def _lines(path: Path) -> list[bytes]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise MeasurementError(f"{path} is larger than {format_bytes(_MOST_BYTES)}, too much for a list of runs")
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read: {error.strerror}", "check the name") from None
    if not lines:
        raise MeasurementError(f"{path} holds no runs", "give a file with one run a line, in JSON")
    return lines


def _fields(line: bytes, where: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        hint = "give a file with one run a line; a truncated last line can be deleted"
        raise MeasurementError(f"{where}: not a run in JSON: {error}", hint) from None


def _reader(fields: dict[str, Any], where: str) -> Callable[[bytes], Evidence]:
    if {"case", "status"} <= fields.keys():
        return lambda line: recorder.evidence(recorder.decoded(line, where))
    if {"scenario", "environment"} <= fields.keys():
        return lambda line: store.decoded(line, where)
    raise MeasurementError(
        f"{where}: neither a record of memprof's nor a case of record_runs.py", "check that it is the right file"
    )

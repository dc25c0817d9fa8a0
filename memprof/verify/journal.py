"""What an unfinished suite has recorded already, so that a killed one goes on where it stopped.

A file beside the records, one line a run; it is gone when the suite is through.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from memprof.errors import MeasurementError
from memprof.model.evidence import Evidence
from memprof.verify import store


class _Line(msgspec.Struct, frozen=True):
    """A run's name, and its record's place below the store's folder."""

    name: str
    record: str


class Journal:
    """Of one suite in one store.

    Attributes:
        records: what is recorded already, by the run's name.
    """

    def __init__(self, folder: Path, suite: str, *, again: bool = False) -> None:
        """Reads what is there, which ``again`` leaves aside.

        Raises:
            MeasurementError: the journal, or a record that it names, cannot be read, or the folder cannot be written.
        """
        self._folder = folder
        self._path = folder / f"unfinished-{suite}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if again:
                self._path.unlink(missing_ok=True)
            lines = self._whole_lines()
        except OSError as error:
            raise MeasurementError(
                f"{self._path} cannot be written: {error.strerror}", "choose another folder with --out"
            ) from None
        self.records: dict[str, Evidence] = dict(self._read(lines))

    def add(self, record: Evidence) -> None:
        """Records a run in the store, then here; a run that is killed in between is run once more."""
        path = store.write(record, self._folder)
        line = msgspec.json.encode(_Line(record.name, path.relative_to(self._folder).as_posix()))
        with self._path.open("ab") as file:
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """The suite is through."""
        self._path.unlink(missing_ok=True)

    def _whole_lines(self) -> list[bytes]:
        """A line that a kill cut off is taken away."""
        with self._path.open("a+b") as file:
            file.seek(0)
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)
        return text.split(b"\n")[:-1]

    def _read(self, lines: list[bytes]) -> Iterator[tuple[str, Evidence]]:
        for text in lines:
            try:
                line = msgspec.json.decode(text, type=_Line)
            except msgspec.MsgspecError as error:
                raise MeasurementError(
                    f"{self._path} is no journal of a suite: {error}", "begin anew with --again"
                ) from None
            yield line.name, store.read(self._folder / line.record)

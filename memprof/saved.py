"""Results that were saved as JSON: told apart by the fields that each kind has, and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from memprof.errors import ConfigError
from memprof.model.check_report import SCHEMA_VERSION as CHECK_SCHEMA_VERSION
from memprof.model.check_report import CheckReport
from memprof.model.comparison import COMPARISON_SCHEMA_VERSION, Comparison
from memprof.model.result import SCHEMA_VERSION, Result, Table
from memprof.model.snapshot import SNAPSHOT_SCHEMA_VERSION, SnapshotReport
from memprof.model.verification import VERIFICATION_VERSION, Verification
from memprof.units import GiB, format_bytes

MOST_BYTES = 1 * GiB

# Fields that only this kind has, its type, the newest version of it that can be read.
KINDS: tuple[tuple[frozenset[str], Any, int], ...] = (
    (frozenset({"engine", "peak", "verdict"}), Result, SCHEMA_VERSION),
    (frozenset({"recorded", "simulated", "devices"}), SnapshotReport, SNAPSHOT_SCHEMA_VERSION),
    (frozenset({"before", "after", "numbers"}), Comparison, COMPARISON_SCHEMA_VERSION),
    (frozenset({"config", "counts", "checks"}), CheckReport, CHECK_SCHEMA_VERSION),
    (frozenset({"memprof_version", "runs"}), Verification, VERIFICATION_VERSION),
)


class _Holder(msgspec.Struct, frozen=True):
    """What a row of ``modules_at_peak`` has at least."""

    module: str
    component: str
    bytes: int


def read(path: str | Path) -> Any:
    """The value in a file that ``--json`` or ``-o FILE.json`` wrote.

    Raises:
        ConfigError: it cannot be read, is not such a file, or was written by a newer memprof.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is not a file")
        if path.exists() and path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path} is larger than {format_bytes(MOST_BYTES)}, too much for a result")
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "check the name") from None
    return decoded(text, str(path))


def decoded(text: bytes, name: str) -> Any:
    """The value that JSON text stands for; ``name`` is what an error calls it."""
    save = "memprof estimate MODEL -o result.json writes one, memprof snapshot FILE --json another"
    try:
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ConfigError(f"{name} is not a result in JSON", save) from None
    kind, newest = next(((kind, newest) for keys, kind, newest in KINDS if keys <= fields.keys()), (None, 0))
    if kind is None:
        raise ConfigError(f"{name} is JSON, but no result of memprof's", save)
    try:
        version = msgspec.json.decode(fields.get("schema_version", b"1"), type=int)
        if version > newest:
            raise ConfigError(
                f"{name} has schema_version {version}, this memprof reads up to {newest}",
                "update memprof, or write the result again with this one",
            )
        value = msgspec.json.decode(text, type=kind)
        if isinstance(value, Result):
            value.check()
            msgspec.convert(value.modules_at_peak, list[_Holder])
            _check_rows(value.timeline)
    except (msgspec.DecodeError, RecursionError, AssertionError) as error:
        raise ConfigError(f"{name} is damaged: {error}", "write it again") from None
    return value


def _check_rows(table: Table) -> None:
    """Raises ValidationError where a row does not have the table's columns."""
    if any(len(row) != len(table.columns) for row in table.rows):
        raise msgspec.ValidationError("a row of the timeline does not have its columns")

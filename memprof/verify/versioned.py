"""JSON of a schema that grows: an older memprof says so of a newer file, before it stumbles over its fields."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from memprof.errors import MeasurementError

T = TypeVar("T")


def decoded(text: bytes, kind: type[T], newest: int, name: str, what: str, hint: str) -> T:
    """The value that JSON text with a ``schema_version`` stands for.

    Args:
        text: of an object.
        kind: what it is decoded as.
        newest: version that this memprof writes.
        name: what an error calls it.
        what: it should be, after "is no".
        hint: what to do with a broken one.

    Raises:
        MeasurementError: it is newer, or not such a value.
    """
    try:
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        version = msgspec.json.decode(fields.get("schema_version", msgspec.Raw(b"1")), type=int)
        if version > newest:
            raise MeasurementError(
                f"{name} has schema_version {version}, this memprof reads up to {newest}", "update memprof"
            )
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MeasurementError(f"{name} is no {what}: {error}", hint) from None

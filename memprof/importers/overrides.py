"""Single fields by dotted name, laid over a scenario's plain data: ``--set loop.dropout=0.1``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from memprof.errors import ConfigError


def assignment(text: str) -> tuple[str, Any]:
    """``("batch.image_size", "224")`` of ``batch.image_size=224``.

    ``null`` is None, text that opens with a bracket, brace or quote is JSON, all else stays text.

    Raises:
        ConfigError: no ``=``, an empty name, or broken JSON.
    """
    dotted, equals, value = text.partition("=")
    if not equals or not all(dotted.split(".")):
        raise ConfigError(f"{text!r} is not an assignment", "write --set dotted.key=value")
    if value == "null":
        return dotted, None
    if not value.startswith(("[", "{", '"')):
        return dotted, value
    try:
        return dotted, msgspec.json.decode(value.encode())
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"{dotted}: {value!r} is not JSON: {error}", "quote it for the shell") from None


def lay_over(data: dict[str, Any], fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A copy of ``data`` with each (dotted name, value) put in its place; a mapping opens where there was none."""
    out = dict(data)
    for dotted, value in fields:
        *parents, name = dotted.split(".")
        place = out
        for parent in parents:
            inner = place.get(parent)
            place[parent] = dict(inner) if isinstance(inner, dict) else {}
            place = place[parent]
        place[name] = value
    return out


def leaves(data: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Each (dotted name, value) of nested mappings: what ``lay_over`` takes."""
    for name, value in data.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value

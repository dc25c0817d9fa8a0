"""The device catalog: entries in ``devices/*.toml``, and which of them a name means.

A name is an entry's short name, what the driver calls the card, or an alias, in any case of letters and with spaces or
underscores for hyphens; never a part of one. A name stands quoted in its entry's file, so a text search finds the one
file to parse.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from memprof.catalog.names import normal
from memprof.catalog.toml_files import parse, texts
from memprof.errors import DeviceError
from memprof.model.device import Device


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device: tuple[dict[str, Any], ...]


@cache
def device(name: str) -> Device:
    """The device that a name means.

    Raises:
        DeviceError: no entry goes by that name.
    """
    wanted = normal(name)
    for text in texts("devices"):
        if f'"{wanted}"' in normal(text):
            for entry in _parse(text):
                if wanted in spellings(entry):
                    return entry
    raise DeviceError(f"{name!r} is not a device that memprof knows", _hint(wanted))


def devices() -> list[Device]:
    """The whole catalog, by name."""
    return sorted((entry for text in texts("devices") for entry in _parse(text)), key=lambda entry: entry.name)


def device_names() -> list[str]:
    """Short names of all devices, sorted."""
    return [entry.name for entry in devices()]


def spellings(entry: Device) -> Iterator[str]:
    """All names that mean an entry, as ``normal`` writes them."""
    return map(normal, (entry.name, entry.title, *entry.aliases))


def _hint(wanted: str) -> str:
    from difflib import get_close_matches

    # An ambiguous name, such as a100 or v100, is best answered by the devices that go on from there.
    names = [name for name in device_names() if wanted and wanted in name]
    close = names or get_close_matches(wanted, device_names(), n=4, cutoff=0.5)
    return f"did you mean {' or '.join(close[:6])}?" if close else "memprof devices lists them"


def _parse(text: str) -> Iterator[Device]:
    # TOML has no null: a device without memory of its own leaves total_bytes out.
    for fields in msgspec.convert(parse(text), _File).device:
        yield msgspec.convert({"total_bytes": None} | fields, Device)

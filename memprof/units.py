"""Bytes, counts and times: parse what people write, print what people read.

Inside memprof a size is an ``int`` of bytes. ``GiB`` is 2**30 and ``GB`` is 10**9; both parse, each means itself.
"""

from __future__ import annotations

import re

from memprof.errors import ConfigError

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40

_FACTORS = {
    "": 1, "b": 1,
    "kib": KiB, "mib": MiB, "gib": GiB, "tib": TiB,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip
_SIZE = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?|\.[0-9]{1,30})\s*([A-Za-z]*)\s*\Z")


def parse_bytes(text: str | int) -> int:
    """Bytes of ``"72 GiB"``, ``"80GB"`` or ``1024``.

    Raises:
        ConfigError: not a number with an optional unit of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB.
    """
    if isinstance(text, int):
        return text
    match = _SIZE.match(text)
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise ConfigError(f"{text!r} is not a size", "write a number and a unit, such as 72GiB or 80GB")
    number = match.group(1)
    return int(number) * factor if number.isdigit() else round(float(number) * factor)


def gib(num_bytes: int) -> str:
    """``"61.20 GiB"``: what people see in answers; always GiB, always two decimals."""
    return f"{num_bytes / GiB:,.2f} GiB"


def format_bytes(num_bytes: int) -> str:
    """The largest binary unit that keeps the number at or above one: ``"16.00 MiB"``, ``"512 B"``."""
    magnitude = abs(num_bytes)
    for unit, factor in (("TiB", TiB), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if magnitude >= factor:
            return f"{num_bytes / factor:,.2f} {unit}"
    return f"{num_bytes} B"


def format_count(count: int) -> str:
    """A parameter count in powers of 1000: ``"13.02 B"``, ``"124.44 M"``, ``"512"``."""
    for unit, factor in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if abs(count) >= factor:
            return f"{count / factor:.2f} {unit}"
    return str(count)

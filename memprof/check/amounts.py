"""What ``limit`` and ``max_increase`` say: bytes with a unit, or a share of something."""

from __future__ import annotations

import re
from contextlib import suppress

from memprof.errors import ConfigError
from memprof.model.check_report import Limit
from memprof.units import parse_bytes

_SHARE = re.compile(r"\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*%\s*\Z")


def amount(text: str, whole_bytes: int | None) -> Limit:
    """``"72 GiB"``, or ``"90 %"`` of the whole, rounded down; a share of what is not known is not known.

    Raises:
        ConfigError: neither a size with its unit nor a share.
    """
    share = _SHARE.match(text)
    if share is None:
        return Limit(text=text, num_bytes=size(text, "write it as 72 GiB or 90 %"))
    whole, _, fraction = share.group(1).partition(".")
    per = 100 * 10 ** len(fraction)
    num_bytes = None if whole_bytes is None else whole_bytes * int(whole + fraction) // per
    return Limit(text=text, num_bytes=num_bytes)


def size(text: str, hint: str = "write it as 600 MiB") -> int:
    """Bytes of a number with its unit; a number alone is more often a mistake than a count of bytes.

    Raises:
        ConfigError: it is none; ``hint`` says how one is written.
    """
    with suppress(ConfigError):
        if text.strip()[-1:].isalpha():
            return parse_bytes(text)
    raise ConfigError(f"{text!r} is no size with a unit", hint)

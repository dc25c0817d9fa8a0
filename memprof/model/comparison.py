"""A Comparison: two results beside each other; its names are the JSON contract of ``memprof diff``."""

from __future__ import annotations

from typing import Any

import msgspec

from memprof.model.shown import Shown

COMPARISON_SCHEMA_VERSION = 1


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity, in bytes, in both results; None where a result does not say."""

    name: str
    before_bytes: int | None
    after_bytes: int | None

    @property
    def change_bytes(self) -> int | None:
        """Negative where the second is smaller; None where one of them is not known."""
        return None if self.before_bytes is None or self.after_bytes is None else self.after_bytes - self.before_bytes


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A setting that differs, by its dotted name."""

    name: str
    before: Any
    after: Any


class Comparison(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """What differs from ``before`` to ``after``, which are the names of the files.

    Attributes:
        kinds: what the two are (``estimate``, ``snapshot``).
        numbers: peak requested, allocated, reserved and device bytes.
        components: at the peak, what changed most first; ``phases`` and ``modules`` likewise.
        settings: of the scenarios, where both have one.
    """

    schema_version: int = COMPARISON_SCHEMA_VERSION
    memprof_version: str
    before: str
    after: str
    kinds: tuple[str, str]
    numbers: list[Pair]
    components: list[Pair]
    phases: list[Pair] = []
    modules: list[Pair] = []
    settings: list[Setting] = []
    command: str = ""

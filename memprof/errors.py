"""The exception tree: one cause, one class; each message says what, why, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable


class MemprofError(Exception):
    """Base of every error that memprof raises on purpose; the command line turns it into one line and exit code 2.

    Args:
        message: what happened and why, one sentence, no trailing full stop.
        hint: what to do next, or None where nothing can be said.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(MemprofError):
    """The command line itself is off: unknown flag, flags that exclude each other."""


class ConfigError(MemprofError):
    """A scenario, or a file that should hold one, says something that cannot be."""


class UnsupportedError(ConfigError):
    """The scenario is sound, but the chosen engine does not model a part of it."""


class ModelError(MemprofError):
    """A model name, config.json, safetensors header or factory that cannot be resolved."""


class DeviceError(MemprofError):
    """A device that is not in the catalog, or is not there."""


class MeasurementError(MemprofError):
    """A real run could not be made or its record could not be read."""


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """``"did you mean data?"`` for a misspelt word, in any case of letters; None where nothing known is close."""
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[close[0]]}?" if close else None

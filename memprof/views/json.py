"""JSON: the contract, its fields in the order of ``Result``, indented by two."""

from __future__ import annotations

from typing import Any

import msgspec

from memprof.errors import MemprofError


def render(value: Any) -> str:
    """A result, or any other value that a command answers with under ``--json``."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def render_error(error: MemprofError) -> str:
    """``{"error": {"type", "message", "hint"}}``."""
    return render({"error": {"type": type(error).__name__, "message": error.message, "hint": error.hint}})

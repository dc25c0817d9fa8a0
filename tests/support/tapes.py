"""The recorded tapes that tests play."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from memprof.model.tape import Tape
from memprof.tapes import SUFFIX, read_tape

FOLDER = Path(__file__).parents[2] / "reports" / "evidence" / "tapes"
NAMES = sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


@cache
def tape(name: str) -> Tape:
    return read_tape(FOLDER / f"{name}{SUFFIX}")


def segment_growth(recorded: Tape) -> list[tuple[int, str, int]]:
    """(index of the request that caused it, action, bytes) of each segment or page run that was taken."""
    found: list[tuple[int, str, int]] = []
    waiting: list[tuple[str, int]] = []
    for index, (action, size) in enumerate(zip(recorded.column("action"), recorded.events.size, strict=True)):
        if action in ("segment_alloc", "segment_map"):
            waiting.append((action, size))
        elif action in ("alloc", "oom"):
            found += [(index, *growth) for growth in waiting]
            waiting = []
    return found

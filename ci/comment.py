"""The comment of a pull request: the checks of the head, what changed since the base, the base's own report folded.

    comment.py FOLDER [BASE]

FOLDER holds what ``memprof check`` wrote: head.md, head.json and head.err, and base.* where there is a base.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from memprof.model.check_report import CheckReport, Outcome
from memprof.views import check_phrases as phrases
from memprof.views.markdown import escape, folded, table

LONGEST = 65_000
"""Characters; GitHub refuses a comment of more than 65,536, the marker that comes before included."""
_CUT = "\n\n*The rest is left out; the summary of the run has all of it.*\n"


def comment(folder: Path, base: str) -> str:
    """The parts that there is room for, the most important first."""
    parts = [_report(folder, "head", "could not be checked")]
    if base:
        parts += [_difference(folder, base[:8]), folded(f"Base {base[:8]}", _report(folder, "base", "has no checks"))]
    text = "\n\n".join(parts) + "\n"
    while len(text) > LONGEST and len(parts) > 1:
        parts.pop()
        text = "\n\n".join(parts) + _CUT
    return text if len(text) <= LONGEST else _shortened(parts[0])


def _report(folder: Path, side: str, otherwise: str) -> str:
    """A side's Markdown, or why there is none."""
    report = folder / f"{side}.md"
    if report.is_file():
        return report.read_text(encoding="utf-8").rstrip()
    error = (folder / f"{side}.err").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"**memprof: the {side} {otherwise}**" + (f"\n\n> {escape(error[-1])}" if error else "")


def _difference(folder: Path, base: str) -> str:
    """A row for each check that the two sides do not share, or that takes other bytes on them."""
    head, before = _outcomes(folder / "head.json"), _outcomes(folder / "base.json")
    if head is None or before is None:
        return f"Not compared with {base}: one of the two has no checks that can be made."
    rows = [row for name in dict.fromkeys([*head, *before]) if (row := _row(name, before.get(name), head.get(name)))]
    if not rows:
        return f"No check takes other memory than on {base}."
    return f"Since {base}:\n\n" + table(("Check", "Head", "Base", "Change", "Settings"), rows)


def _row(name: str, before: Outcome | None, now: Outcome | None) -> tuple[str, ...] | None:
    if before is None or now is None:
        sides = ["" if side is None else phrases.value(side) for side in (now, before)]
        return name, *sides, "new" if before is None else "gone", ""
    old, new = _bytes(before), _bytes(now)
    changed = ", ".join(_changed(before.settings, now.settings))
    if old == new and not changed:
        return None
    change = "" if old is None or new is None else phrases.signed(new - old)
    return name, phrases.value(now), phrases.value(before), change, changed


def _bytes(outcome: Outcome) -> int | None:
    return outcome.floor_bytes if outcome.value_bytes is None else outcome.value_bytes


def _changed(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield f"{name} {before.get(name, 'default')} -> {now.get(name, 'default')}"


def _outcomes(path: Path) -> dict[str, Outcome] | None:
    if not path.is_file():
        return None
    report = msgspec.json.decode(path.read_bytes(), type=CheckReport)
    return {outcome.name: outcome for outcome in report.checks}


def _shortened(report: str) -> str:
    """The report up to the last line that there is room for outside of what is folded."""
    text = report[: LONGEST - len(_CUT)]
    text = text[: text.rindex("\n")]
    return (text if text.count("<details>") == text.count("</details>") else text[: text.rindex("<details>")]) + _CUT


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    print(comment(Path(sys.argv[1]), sys.argv[2]), end="")

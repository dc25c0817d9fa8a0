"""GitHub Actions: one annotation for each check that did not pass, as workflow commands on stdout.

GitHub shows the first ten errors and the first ten warnings of a step beside the code; all of them are in its log.
Source: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
"""

from __future__ import annotations

import re

from memprof.errors import MemprofError
from memprof.model.check_report import CheckReport, Place
from memprof.views import check_phrases as phrases

_PLACED = re.compile(r"([^:\s][^:\n]*):([0-9]{1,9}): ")
_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}


def render(report: CheckReport) -> str:
    """The annotations, the gravest first, then the count."""
    told = [outcome for severity in _COMMANDS for outcome in report.checks if outcome.severity == severity]
    lines = [
        annotation(
            _COMMANDS[str(outcome.severity)], f"memprof: {outcome.name}", phrases.message(outcome), outcome.place
        )
        for outcome in told
    ]
    return "\n".join([*lines, phrases.summary(report)]) + "\n"


def render_error(error: MemprofError) -> str:
    """What kept the checks from being made, as an annotation of the line that the message opens with, if it does."""
    placed = _PLACED.match(error.message)
    place = None if placed is None else Place(path=placed[1], line=int(placed[2]))
    return annotation("error", "memprof", str(error), place) + "\n"


def annotation(command: str, title: str, message: str, place: Place | None = None) -> str:
    """``::error file=memprof.yaml,line=3,title=...::message``."""
    properties = {} if place is None else {"file": place.path, "line": place.line}
    told = [
        f"{key}={_property(str(value))}" for key, value in {**properties, "title": title}.items() if value is not None
    ]
    return f"::{command} {','.join(told)}::{_data(message)}"


def _data(text: str) -> str:
    """Source: https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts ``escapeData``."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Source: as ``_data``, ``escapeProperty``."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")

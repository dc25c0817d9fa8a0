"""A check report as JSON: its fields, the count in words, and each check's message."""

from __future__ import annotations

from typing import Any

import msgspec

from memprof.model.check_report import CheckReport
from memprof.views import check_phrases as phrases
from memprof.views.json import render as render_json


def render(report: CheckReport) -> str:
    """One object, indented by two."""
    plain: dict[str, Any] = msgspec.to_builtins(report)
    checks = [
        {**check, "message": phrases.message(outcome)}
        for check, outcome in zip(plain["checks"], report.checks, strict=True)
    ]
    return render_json({**plain, "summary": phrases.summary(report), "checks": checks})

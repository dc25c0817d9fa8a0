"""SARIF 2.1.0, which code scanning reads: a result for each check that did not pass.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from memprof.model.check_report import CheckReport, Outcome
from memprof.views import check_phrases as phrases
from memprof.views.json import render as render_json

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_RULES = {
    "failed": ("memory-over-limit", "A step takes more GPU memory than its limit, or has grown by more than it may."),
    "unknown": ("memory-unknown", "The memory of a step cannot be known, which is never a pass."),
    "warning": ("memory-near-limit", "A step keeps its limit by less than the estimate may be off."),
}


def render(report: CheckReport) -> str:
    """One run. What passed is left out, as code scanning shows each result as an alert."""
    results = [_result(outcome) for outcome in report.checks if outcome.severity is not None]
    driver = {
        "name": "memprof",
        "version": report.memprof_version,
        "rules": [{"id": id_, "shortDescription": {"text": text}} for id_, text in _RULES.values()],
    }
    run = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": True}],
        "originalUriBaseIds": {"%SRCROOT%": {"description": {"text": "The root of the repository."}}},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return render_json({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})


def _result(outcome: Outcome) -> dict[str, Any]:
    location: dict[str, Any] = {"artifactLocation": {"uri": quote(outcome.place.path), "uriBaseId": "%SRCROOT%"}}
    if outcome.place.line is not None:
        location["region"] = {"startLine": outcome.place.line}
    return {
        "ruleId": _RULES[outcome.status][0],
        "ruleIndex": list(_RULES).index(outcome.status),
        "level": outcome.severity,
        "message": {"text": f"{outcome.name}: {phrases.message(outcome)}"},
        "locations": [{"physicalLocation": location}],
        "partialFingerprints": {"check/v1": outcome.name},
        "properties": {"check": outcome.name, "metric": outcome.metric, "valueBytes": outcome.value_bytes},
    }

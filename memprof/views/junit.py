"""JUnit XML, which most CI systems show as a list of tests: a check is a test case.

A check that does not count as an error is *skipped*, never a pass and never a failure.
Source: https://github.com/jenkinsci/xunit-plugin/blob/master/src/main/resources/org/jenkinsci/plugins/xunit/types/model/xsd/junit-10.xsd
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from memprof.model.check_report import CheckReport, Outcome
from memprof.units import format_bytes
from memprof.views import check_phrases as phrases

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold. Source: https://www.w3.org/TR/xml/#charsets"""
_TAGS = {"failed": "failure", "unknown": "error"}


def render(report: CheckReport) -> str:
    """One suite, in the order of the checks."""
    cases = [_case(report, outcome) for outcome in report.checks]
    counts = {"tests": len(cases)}
    for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        counts[key] = sum(case.find(tag) is not None for case in cases)
    numbers = {key: str(count) for key, count in counts.items()}
    suites = Element(
        "testsuites", {"name": "memprof", **{key: numbers[key] for key in ("tests", "failures", "errors")}}
    )
    SubElement(suites, "testsuite", {"name": "memprof check", **numbers, "time": "0"}).extend(cases)
    indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(suites, encoding="unicode")}\n'


def _case(report: CheckReport, outcome: Outcome) -> Element:
    case = Element("testcase", {"classname": _clean(report.config), "name": _clean(outcome.name), "time": "0"})
    told = _clean(phrases.message(outcome))
    if outcome.severity in ("warning", "note"):
        SubElement(case, "skipped", {"message": f"{outcome.severity}: {told}"})
    elif outcome.severity == "error":
        failure = SubElement(case, _TAGS[outcome.status], {"type": outcome.status, "message": told})
        failure.text = _clean("\n".join([phrases.place(outcome), phrases.headline(outcome), *phrases.details(outcome)]))
    SubElement(case, "system-out").text = _clean("\n".join([phrases.headline(outcome), *_components(outcome)]))
    return case


def _components(outcome: Outcome) -> list[str]:
    return [f"{name}: {format_bytes(size)}" for name, size in outcome.components.items() if size]


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)

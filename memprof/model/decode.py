"""Plain data into a Scenario: types are checked here, and each error names the dotted field."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from memprof.errors import ConfigError, did_you_mean
from memprof.model.scenario import Scenario


def decode(data: object) -> Scenario:
    """The scenario that a mapping describes; ``memprof.model.consistency`` then says whether it can be.

    Text is read as the type of the field it fills (``"2"`` where a whole number belongs, ``"2.10"`` stays text in
    ``software.torch``), so a file and a ``--set`` on the command line obey one rule.

    Raises:
        ConfigError: an unknown field, a missing model, or a value of the wrong type.
    """
    try:
        return msgspec.convert(data, Scenario, strict=False)
    except msgspec.ValidationError as error:
        raise _explain(str(error), data) from None


_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`\Z")
_TYPE = re.compile(r"Expected `(.*?)`")
_TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def _explain(message: str, data: object) -> ConfigError:
    """What msgspec says as ``"what - at `$.a.b`"``, in memprof's words and with a suggestion where one is near."""
    what, _, where = message.partition(" - at `")
    if where.startswith("key"):
        return ConfigError("a field name is not text", "write each field as name: value")
    path = re.findall(r"[^.\[\]$`]+", where)
    dotted = ".".join(path)
    if unknown := _UNKNOWN.match(what):
        name = unknown.group(1)
        known = _field_names(path)
        hint = did_you_mean(name, known) or f"the fields here are {', '.join(known)}"
        return ConfigError(f"{'.'.join([*path, name])}: unknown field", hint)
    if missing := _MISSING.match(what):
        return ConfigError(f"{'.'.join([*path, missing.group(1)])} is missing", "every scenario names its model")
    got = _shown(_value_at(data, path))
    choices = _choices(path)
    if choices:
        meant = did_you_mean(str(_value_at(data, path)), choices)
        return ConfigError(f"{dotted} must be one of {', '.join(choices)}, got {got}", meant)
    expected = _TYPE.match(what)
    kinds = [_TYPE_NAMES.get(kind, kind) for kind in expected.group(1).split(" | ")] if expected else [what]
    return ConfigError(f"{dotted or 'a scenario'} must be {' or '.join(kinds)}, got {got}")


def _value_at(data: Any, path: list[str]) -> Any:
    for step in path:
        data = data[int(step) if isinstance(data, list | tuple) else step]
    return data


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _alternatives(path: list[str]) -> list[Any]:
    """The types that the field at ``path`` may have, unions opened."""
    from typing import get_args, get_type_hints

    options: list[Any] = [Scenario]
    for step in path:
        if step.isdigit():
            options = [item for option in options for item in get_args(option) if item is not ...]
            continue
        struct = next(o for o in options if isinstance(o, type) and issubclass(o, msgspec.Struct))
        options = _open_union(get_type_hints(struct)[step])
    return options


def _open_union(annotation: Any) -> list[Any]:
    from types import UnionType
    from typing import Union, get_args, get_origin

    if get_origin(annotation) in (Union, UnionType):
        return [part for option in get_args(annotation) for part in _open_union(option)]
    return [annotation]


def _field_names(path: list[str]) -> tuple[str, ...]:
    structs = [o for o in _alternatives(path) if isinstance(o, type) and issubclass(o, msgspec.Struct)]
    return structs[0].__struct_fields__


def _choices(path: list[str]) -> list[str]:
    from typing import Literal, get_args, get_origin

    return [value for o in _alternatives(path) if get_origin(o) is Literal for value in get_args(o)]

"""Plain data into a Scenario or another struct: types are checked here, and each error names the dotted field."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from memprof.errors import ConfigError, did_you_mean
from memprof.model.scenario import Scenario

S = TypeVar("S", bound=msgspec.Struct)
Where = Callable[[tuple[str | int, ...]], str]


def decode(data: object) -> Scenario:
    """The scenario that a mapping describes; ``memprof.model.consistency`` then says whether it can be.

    Text is read as the type of the field it fills (``"2"`` where a whole number belongs, ``"2.10"`` stays text in
    ``software.torch``), so a file and a ``--set`` on the command line obey one rule.

    Raises:
        ConfigError: an unknown field, a missing model, or a value of the wrong type.
    """
    return decode_as(Scenario, data, "scenario")


def decode_as(kind: type[S], data: object, what: str, where: Where = lambda path: "") -> S:
    """As ``decode``, for any struct.

    Args:
        kind: the struct.
        what: what it is called in messages.
        where: opens a message with the place of a field, given its keys from the top down.

    Raises:
        ConfigError: an unknown or missing field, or a value of the wrong type.
    """
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        path, explained = _explain(str(error), data, kind, what)
        raise ConfigError(f"{where(path)}{explained.message}", explained.hint) from None


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


def _explain(
    message: str, data: object, root: type[msgspec.Struct], what: str
) -> tuple[tuple[str | int, ...], ConfigError]:
    """What msgspec says as ``"wrong - at `$.a.b`"``: the keys to it, and it in memprof's words, with a suggestion."""
    wrong, _, where = message.partition(" - at `")
    if where.startswith("key"):
        return (), ConfigError("a field name is not text", "write each field as name: value")
    path = re.findall(r"[^.\[\]$`]+", where)
    place = tuple(int(step) if step.isdigit() else step for step in path)
    dotted = ".".join(path)
    if unknown := _UNKNOWN.match(wrong):
        name = unknown.group(1)
        known = _field_names(root, path)
        hint = did_you_mean(name, known) or f"the fields here are {', '.join(known)}"
        return (*place, name), ConfigError(f"{'.'.join([*path, name])}: unknown field", hint)
    if missing := _MISSING.match(wrong):
        name = missing.group(1)
        hint = "add it" if path else f"every {what} needs it"
        return place, ConfigError(f"{'.'.join([*path, name])} is missing", hint)
    got = _shown(_value_at(data, path))
    choices = _choices(root, path)
    if choices:
        meant = did_you_mean(str(_value_at(data, path)), choices)
        return place, ConfigError(f"{dotted} must be one of {', '.join(choices)}, got {got}", meant)
    expected = _TYPE.match(wrong)
    kinds = [_TYPE_NAMES.get(kind, kind) for kind in expected.group(1).split(" | ")] if expected else [wrong]
    return place, ConfigError(f"{dotted or f'a {what}'} must be {' or '.join(kinds)}, got {got}")


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


def _alternatives(root: type[msgspec.Struct], path: list[str]) -> list[Any]:
    """The types that the field at ``path`` may have, unions opened."""
    from typing import get_args, get_type_hints

    options: list[Any] = [root]
    for step in path:
        if step.isdigit():
            options = [item for option in options for item in get_args(option) if item is not ...]
            continue
        struct = next(o for o in options if isinstance(o, type) and issubclass(o, msgspec.Struct))
        attribute = dict(zip(struct.__struct_encode_fields__, struct.__struct_fields__, strict=True))[step]
        options = _open_union(get_type_hints(struct)[attribute])
    return options


def _open_union(annotation: Any) -> list[Any]:
    from types import UnionType
    from typing import Union, get_args, get_origin

    if get_origin(annotation) in (Union, UnionType):
        return [part for option in get_args(annotation) for part in _open_union(option)]
    return [annotation]


def _field_names(root: type[msgspec.Struct], path: list[str]) -> tuple[str, ...]:
    structs = [o for o in _alternatives(root, path) if isinstance(o, type) and issubclass(o, msgspec.Struct)]
    return structs[0].__struct_encode_fields__


def _choices(root: type[msgspec.Struct], path: list[str]) -> list[str]:
    from typing import Literal, get_args, get_origin

    return [value for o in _alternatives(root, path) if get_origin(o) is Literal for value in get_args(o)]

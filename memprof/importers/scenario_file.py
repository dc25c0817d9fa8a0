"""A scenario file (YAML) as plain data: mappings, lists and text.

Scalars stay text, so ``torch: 2.10`` is not 2.1; ``memprof.model.decode`` reads them as the type of their field. Only
what a scenario needs is read: one document, no tags, no anchors, no repeated keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memprof.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILE_BYTES = 64 << 10
_MAX_DEPTH = 16
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))


def read(path: str) -> dict[str, Any]:
    """The top-level mapping of the file at ``path``.

    Raises:
        ConfigError: no such file, not text, too large, not YAML, or not one plain mapping.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"scenario file {path} cannot be read: {reason}", "check the path") from None
    if len(content) > MAX_FILE_BYTES:
        limit = f"{MAX_FILE_BYTES >> 10} KiB"
        raise ConfigError(
            f"scenario file {path} is larger than {limit}", "a scenario takes a few lines; is it this file?"
        )
    try:
        return parse(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ConfigError(f"scenario file {path} is not UTF-8 text", "is it the right file?") from None
    except ConfigError as error:
        raise ConfigError(f"scenario file {path}: {error.message}", error.hint) from None


def parse(text: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; see the module for what is refused.

    Raises:
        ConfigError: anything else, with the line.
    """
    import yaml

    try:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        data = _document(events)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{line}{error.problem}", "it must be YAML, one `field: value` a line") from None
    except yaml.YAMLError:
        raise ConfigError("it holds characters that YAML does not allow", "is it the right file?") from None
    if not isinstance(data, dict):
        raise ConfigError("it holds no fields", "write at least `model: llama-13b`")
    return data


def _document(events: Iterator[Any]) -> Any:
    """The one document's value; None where there is none."""
    import yaml

    data = None
    num_documents = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            num_documents += 1
            if num_documents > 1:
                raise _refused(event, "a second document", "one file holds one scenario")
            data = _value(next(events), events, depth=0)
    return data


def _value(event: Any, events: Iterator[Any], depth: int) -> Any:
    import yaml

    if depth > _MAX_DEPTH:
        raise _refused(event, "fields nested too deep", "a scenario is two levels deep")
    if isinstance(event, yaml.AliasEvent) or event.anchor:
        raise _refused(event, "an anchor or alias", "write the value out")
    if event.tag:
        raise _refused(event, f"a tag {event.tag}", "write plain values only")
    if isinstance(event, yaml.ScalarEvent):
        is_null = event.style is None and event.value in _NULLS
        return None if is_null else event.value
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(event, events, depth + 1))
        return items
    fields: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        name = _value(event, events, depth + 1)
        if not isinstance(name, str):
            raise _refused(event, "a field name that is not text", "write each field as name: value")
        if name in fields:
            raise _refused(event, f"{name} twice", "keep one of them")
        fields[name] = _value(next(events), events, depth + 1)
    return fields


def _refused(event: Any, what: str, hint: str) -> ConfigError:
    return ConfigError(f"line {event.start_mark.line + 1}: {what} is not allowed in a scenario", hint)

"""YAML as plain data with the line of every key: one document, no tags, no repeated keys, aliases counted.

Scalars are read as PyYAML's ``safe_load`` reads them, which accelerate, transformers, axolotl and LLaMA-Factory use;
dates stay text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from memprof.errors import ConfigError
from memprof.importers.documents import MAX_DEPTH, MAX_VALUES, Keys, Lines, printable

_TYPED = {f"tag:yaml.org,2002:{kind}": f"construct_yaml_{kind}" for kind in ("bool", "int", "float", "null")}
_MERGE = "<<"
_resolver: Any = yaml.SafeLoader("")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(text: str, *, plain: bool = False) -> tuple[dict[str, Any], Lines]:
    """The mapping that a text holds, and the line of each key.

    Args:
        text: the whole file.
        plain: whether scalars stay text (null aside) and anchors are refused, as in a scenario file.

    Raises:
        ConfigError: anything else, with the line.
    """
    composer = _Composer(plain)
    try:
        data = composer.document(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{line}{error.problem}", "it must be YAML, one `field: value` a line") from None
    except (yaml.YAMLError, UnicodeEncodeError):
        raise ConfigError("it holds characters that YAML does not allow", "is it the right file?") from None
    if not isinstance(data, dict):
        raise ConfigError("it holds no fields", "write one `field: value` a line")
    return data, composer.lines


class _Anchored(NamedTuple):
    value: Any
    num_values: int


class _Composer:
    """Events into values. What an alias stands for counts as often as it is named, so no bomb goes off."""

    def __init__(self, plain: bool) -> None:
        self.plain = plain
        self.lines: Lines = {}
        self._anchors: dict[str, _Anchored] = {}
        self._num_values = 0

    def document(self, events: Iterator[Any]) -> Any:
        """The one document's value; None where there is none."""
        data = None
        num_documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                num_documents += 1
                if num_documents > 1:
                    raise _refused(event, "a second document", "keep one")
                data = self._value(next(events), events, ())
        return data

    def _value(self, event: Any, events: Iterator[Any], path: Keys) -> Any:
        self._count(event, 1)
        if len(path) > MAX_DEPTH:
            raise _refused(event, "fields nested too deep", f"{MAX_DEPTH} levels are read")
        if self.plain and (isinstance(event, yaml.AliasEvent) or event.anchor):
            raise _refused(event, "an anchor or alias", "write the value out")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.tag:
            raise _refused(event, f"a tag {printable(event.tag)}", "write plain values only")
        before = self._num_values - 1
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(events, path)
        else:
            value = self._mapping(events, path)
        if event.anchor:
            self._anchors[event.anchor] = _Anchored(value, self._num_values - before)
        return value

    def _alias(self, event: Any) -> Any:
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            raise _refused(
                event, f"an alias *{printable(event.anchor)} without its anchor before it", "write the value out"
            )
        self._count(event, anchored.num_values)
        return anchored.value

    def _count(self, event: Any, num_values: int) -> None:
        self._num_values += num_values
        if self._num_values > MAX_VALUES:
            raise _refused(event, f"more than {MAX_VALUES:,} values", "is it the right file?")

    def _scalar(self, event: Any) -> Any:
        tag = _resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag not in _TYPED or (self.plain and not tag.endswith("null")):
            return event.value
        node = yaml.ScalarNode(tag, event.value)
        try:
            return getattr(_resolver, _TYPED[tag])(node)
        except (ValueError, OverflowError):
            raise _refused(event, f"the number {printable(event.value)}", "write it in digits") from None

    def _sequence(self, events: Iterator[Any], path: Keys) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            place = (*path, len(items))
            self.lines[place] = event.start_mark.line + 1
            items.append(self._value(event, events, place))
        return items

    def _mapping(self, events: Iterator[Any], path: Keys) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            name = self._name(event, events, path)
            if name in fields:
                raise _refused(event, f"{printable(name)} twice", "keep one of them")
            place = (*path, name)
            self.lines[place] = event.start_mark.line + 1
            value = self._value(next(events), events, place)
            if name == _MERGE and not self.plain:
                merged = self._merge(event, value)
            else:
                fields[name] = value
        return merged | fields

    def _name(self, event: Any, events: Iterator[Any], path: Keys) -> str:
        """Names stay text, so ``on`` and ``1`` are names too."""
        if isinstance(event, yaml.ScalarEvent) and not event.anchor and not event.tag and not self._is_null(event):
            self._count(event, 1)
            return str(event.value)
        self._value(event, events, (*path, ""))
        raise _refused(event, "a field name that is not text", "write each field as name: value")

    def _is_null(self, event: Any) -> bool:
        return bool(_resolver.resolve(yaml.ScalarNode, event.value, event.implicit).endswith("null"))

    def _merge(self, event: Any, value: Any) -> dict[str, Any]:
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            raise _refused(event, "a merge of what is no mapping", "write the fields out")
        return {name: source[name] for source in reversed(sources) for name in source}


def _refused(event: Any, what: str, hint: str) -> ConfigError:
    return ConfigError(f"line {event.start_mark.line + 1}: {what} is not allowed", hint)

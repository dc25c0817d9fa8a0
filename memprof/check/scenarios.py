"""The scenario of a check, and where each of its settings is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from memprof.check.config import Config
from memprof.errors import ConfigError, UnsupportedError
from memprof.importers.documents import Document, read_text
from memprof.importers.overrides import lay_over, leaves
from memprof.model.check_report import Change, Place
from memprof.model.decode import decode
from memprof.model.scenario import Scenario, to_builtins

Settings = dict[str, Any]
"""Values by dotted name: those that are not a scenario's defaults."""


class Described(NamedTuple):
    """A scenario, and what there is to know of how it was read.

    Attributes:
        place: where a setting, by its dotted name, is written.
        notes: what its import left out or assumed.
        refused: what its import cannot follow.
    """

    scenario: Scenario
    place: Callable[[str], Place | None]
    notes: tuple[str, ...] = ()
    refused: UnsupportedError | None = None


def describe(config: Config, index: int) -> Described:
    """The scenario of the check at ``index``.

    Raises:
        ConfigError: it says what cannot be, or names a file that cannot be read or lies outside the repository.
    """
    check = config.checks[index]
    try:
        if isinstance(check.scenario, str):
            described = _from_file(config, check.scenario)
        elif check.imported:
            described = _imported(config, index, check.scenario or {})
        else:
            described = _inline(config, index, check.scenario or {})
    except ConfigError as error:
        line = config.document.where(*config.above, "checks", index)
        raise type(error)(f"{line}: check {check.name!r}: {error.message}", error.hint) from None
    return _on_device(described, config, index)


def anchored(scenario: Scenario, config: Config) -> Scenario:
    """The scenario with a model that is a path beside the config looked for there, wherever the command runs."""
    path = config.folder / scenario.model
    return msgspec.structs.replace(scenario, model=str(path)) if path.exists() else scenario


def settings(scenario: Scenario) -> Settings:
    """What makes the scenario differ from the defaults, in the types of JSON."""
    return {name: value for name, value in _flat(scenario) if _DEFAULTS.get(name, ...) != value}


def changes(before: Settings, described: Described) -> list[Change]:
    """The settings that differ from those before; first those whose place is known."""
    after = settings(described.scenario)
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = (values.get(name, _DEFAULTS.get(name)) for values in (before, after))
        if old != new:
            found.append(Change(field=name, before=old, after=new, place=described.place(name)))
    return sorted(found, key=lambda change: change.place is None)


def _from_file(config: Config, name: str) -> Described:
    """A scenario file, whose scalars stay text as under ``memprof estimate --scenario``."""
    from memprof.importers.yaml_lines import parse

    path = str(config.folder / name)
    text = read_text(path, what="scenario file", root=str(config.root))
    try:
        data, lines = parse(text, plain=True)
        scenario = decode(data)
    except ConfigError as error:
        raise ConfigError(f"scenario file {name}: {error.message}", error.hint) from None
    document = Document(path=path, data=data, lines=lines)

    def place(field: str) -> Place | None:
        line = document.line(*field.split("."))
        return None if line is None else Place(path=config.shown(path), line=line)

    return Described(scenario, place)


def _inline(config: Config, index: int, data: dict[str, Any]) -> Described:
    def place(field: str) -> Place | None:
        return config.place("checks", index, "scenario", *field.split("."))

    return Described(decode(data), place)


def _imported(config: Config, index: int, over: dict[str, Any]) -> Described:
    """Training configs, under the fields that the check sets itself."""
    from memprof.importers.detect import import_config

    check = config.checks[index]
    names = (check.imported,) if isinstance(check.imported, str) else check.imported
    imported = import_config(*(_beside(config, name) for name in names), root=str(config.root))
    given = list(leaves(over))
    set_here = {field for field, _ in given} | ({"device"} if config.rule(index).device is not None else set())
    try:
        imported.refuse(set_here)
        refused = None
    except UnsupportedError as error:
        refused = error

    def place(field: str) -> Place | None:
        setting = imported.setting(field)
        if field in set_here or setting is None:
            return config.place("checks", index, "scenario", *field.split("."))
        return Place(path=config.shown(setting.path), line=setting.line)

    return Described(decode(lay_over(imported.data(), given)), place, tuple(imported.warnings(set_here)), refused)


def _beside(config: Config, name: str) -> str:
    """A path beside the config; ``kind:path`` keeps its kind."""
    kind, colon, path = name.partition(":")
    if not colon or (config.folder / name).exists():
        return str(config.folder / name)
    return f"{kind}:{config.folder / path}"


def _on_device(described: Described, config: Config, index: int) -> Described:
    """The device that the check or the defaults name beats the scenario's."""
    device = config.rule(index).device
    if device is None:
        return described
    own = config.checks[index].device is not None
    keys = ("checks", index, "device") if own else ("defaults", "device")

    def place(field: str) -> Place | None:
        return config.place(*keys) if field == "device" else described.place(field)

    return described._replace(scenario=msgspec.structs.replace(described.scenario, device=device), place=place)


def _flat(scenario: Scenario) -> Iterator[tuple[str, Any]]:
    for name, value in leaves(to_builtins(scenario)):
        yield name, list(value) if isinstance(value, tuple) else value


_DEFAULTS: Settings = dict(_flat(Scenario(model="")))

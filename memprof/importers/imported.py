"""What config files of other libraries say of a scenario: each value with its file and line, and what was left out."""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby
from operator import attrgetter
from typing import Any

import msgspec

from memprof.errors import UnsupportedError
from memprof.importers.documents import printable
from memprof.importers.overrides import lay_over
from memprof.model.decode import decode
from memprof.model.scenario import Scenario

_MOST_LISTED = 60
"""Ignored keys in one warning; ``Imported.ignored`` has all."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A value that a file states.

    Attributes:
        field: dotted scenario field; until files are combined also a fact that they decide together, such as ``world``.
        kind: of the config that states it; a DeepSpeed config may stand within another.
        key: dotted name in the file.
        line: the first is 1; None where it is not known.
    """

    field: str
    value: Any
    kind: str
    key: str
    path: str
    line: int | None

    @property
    def where(self) -> str:
        """``"train.yaml:12"``."""
        return self.path if self.line is None else f"{self.path}:{self.line}"

    def __str__(self) -> str:
        return f"{self.where}: {self.key}"


class Default(msgspec.Struct, frozen=True, kw_only=True):
    """A value that no file states: what the library does then, and where that is written."""

    field: str
    value: Any
    source: str

    def __str__(self) -> str:
        return f"{self.field} {shown(self.value)}"


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What the estimate does not follow: a warning or, with a hint, a refusal. Setting ``field`` otherwise lifts it."""

    field: str | None
    message: str
    hint: str | None = None


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What one or more files say.

    Attributes:
        kinds: of the configs that were read, in order.
        settings: what the files state.
        defaults: what their libraries take for fields that no file states.
        ignored: dotted keys that had no part in it, by path.
        notes: warnings and refusals.
    """

    kinds: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    defaults: tuple[Default, ...] = ()
    ignored: dict[str, tuple[str, ...]] = {}
    notes: tuple[Note, ...] = ()

    def setting(self, field: str) -> Setting | None:
        """The setting of a dotted field; for a mapping such as ``adapter`` the first of its parts."""
        found = (s for s in self.settings if s.field == field or s.field.startswith(f"{field}."))
        return next(found, None)

    def data(self) -> dict[str, Any]:
        """Plain data for ``decode``, to be laid under flags."""
        defaults = [(default.field, default.value) for default in self.defaults]
        return lay_over({}, [*defaults, *((setting.field, setting.value) for setting in self.settings)])

    def scenario(self) -> Scenario:
        """The scenario that the files alone describe.

        Raises:
            ConfigError: no model is named, a value cannot be, or the estimate cannot follow a setting.
        """
        self.refuse()
        return decode(self.data())

    def refuse(self, overridden: Collection[str] = ()) -> None:
        """Nothing where the estimate can follow every setting that was not overridden.

        Raises:
            UnsupportedError: the first that it cannot.
        """
        for note in self.notes:
            if note.hint is not None and not _covered(note.field, overridden):
                raise UnsupportedError(note.message, note.hint)

    def assumed(self, overridden: Collection[str] = ()) -> list[Default]:
        """The defaults that hold."""
        return [default for default in self.defaults if not _covered(default.field, overridden)]

    def warnings(self, overridden: Collection[str] = ()) -> list[str]:
        """For the result: what is not followed, what was assumed, which keys were ignored.

        Args:
            overridden: dotted fields that were set otherwise, so that nothing is to be said of them.
        """
        notes = [n.message for n in self.notes if n.hint is None and not _covered(n.field, overridden)]
        by_source = groupby(sorted(self.assumed(overridden), key=attrgetter("source")), attrgetter("source"))
        assumed = [f"assumed {', '.join(map(str, defaults))} ({source})" for source, defaults in by_source]
        ignored = [f"{path}: ignored {_listed(keys)}" for path, keys in self.ignored.items() if keys]
        return [*notes, *assumed, *ignored]


def _listed(keys: tuple[str, ...]) -> str:
    more = len(keys) - _MOST_LISTED
    return ", ".join(keys[:_MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def spelled(value: Any) -> str:
    """A plain value as a config file would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def shown(value: Any) -> str:
    """The same, as it may stand in a message."""
    return printable(spelled(value))


def _covered(field: str | None, overridden: Collection[str]) -> bool:
    """Whether a field, a part of it, or what it is a part of is set otherwise."""
    if field is None:
        return False
    return any(o == field or o.startswith(f"{field}.") or field.startswith(f"{o}.") for o in overridden)

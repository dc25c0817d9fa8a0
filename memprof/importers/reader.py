"""One config file while it is mapped: what is read, what that becomes, and which keys stay unread."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from memprof.errors import ConfigError
from memprof.importers.documents import Document, printable, read
from memprof.importers.imported import Default, Imported, Note, Setting, shown, spelled

_EMPTY: tuple[Any, ...] = (None, "", [], {})
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

_MOST_COMPARED = 200
"""Unread keys that are compared with known ones for a suggestion."""
_FLAGS: dict[str | None, str] = {
    "adapter": "--lora or --lora-targets",
    "attention": "--attention",
    "batch.micro_batch_size": "--batch",
    "checkpointing": "--checkpointing",
    "model": "MODEL",
    "optimizer.name": "--optimizer",
    "parallelism.context": "--set parallelism.context=1",
    "parallelism.strategy": "--strategy",
    "precision": "--precision",
    "quantization": "--quantize",
    "task": "--task causal-lm",
}
"""What sets a field on the command line."""


class Reader:
    """Reads typed values from a document and collects what they become.

    A key that is missing, null or empty reads as None. Keys are given from the top down.

    Args:
        document: its ``data`` may be a mapping within a file, that at the keys ``above``.
        kind: of the config.
        root: see ``documents.read``.
    """

    def __init__(self, document: Document, kind: str, root: str | None = None, *, above: tuple[str, ...] = ()) -> None:
        self.document = document
        self.kind = kind
        self.root = root
        self._above = above
        self._read: set[tuple[str, ...]] = set()
        self._settings: list[Setting] = []
        self._defaults: list[Default] = []
        self._notes: list[Note] = []

    def has(self, *keys: str) -> bool:
        """Whether a key has a value; this alone does not count as reading it."""
        return self._value(keys) not in _EMPTY

    def get(self, *keys: str) -> Any:
        """The value as it stands.

        Raises:
            ConfigError: what should hold it is no mapping.
        """
        self._read.add(keys)
        for end in range(1, len(keys)):
            self.names(*keys[:end])
        return self._value(keys) if self.has(*keys) else None

    def text(self, *keys: str) -> str | None:
        value = self.get(*keys)
        if isinstance(value, dict | list):
            raise self.error("must be text", *keys)
        return None if value is None else spelled(value)

    def flag(self, *keys: str) -> bool | None:
        word = self.text(*keys)
        if word is not None and word.lower() not in _WORDS:
            raise self.error("must be true or false", *keys)
        return None if word is None else _WORDS[word.lower()]

    def number(self, *keys: str) -> float | None:
        word = self.text(*keys)
        try:
            return None if word is None else float(word)
        except ValueError:
            raise self.error("must be a number", *keys) from None

    def whole(self, *keys: str) -> int | None:
        number = self.number(*keys)
        if number is not None and not number.is_integer():
            raise self.error("must be a whole number", *keys)
        return None if number is None else int(number)

    def choice(self, choices: dict[str, Any], *keys: str) -> Any:
        """What a word stands for, in any case of letters.

        Raises:
            ConfigError: a word that is not among the choices.
        """
        word = self.text(*keys)
        if word is not None and word.lower() not in choices:
            raise self.error(f"must be one of {', '.join(choices)}", *keys)
        return None if word is None else choices[word.lower()]

    def words(self, *keys: str) -> list[str] | None:
        """A list of names, or names with commas between."""
        value = self.get(*keys)
        if value is None:
            return None
        items = value if isinstance(value, list) else spelled(value).split(",")
        if isinstance(value, dict) or any(isinstance(item, dict | list) for item in items):
            raise self.error("must be a list of names", *keys)
        return [spelled(item).strip() for item in items]

    def names(self, *keys: str) -> tuple[str, ...]:
        """The names in a mapping.

        Raises:
            ConfigError: it is none.
        """
        if not self.has(*keys):
            return ()
        value = self._value(keys)
        if not isinstance(value, dict):
            raise self.error("must be a mapping", *keys)
        return tuple(value)

    def follow(self, *keys: str) -> Document | None:
        """The file that a key names: beside this file, else in the root or the working directory; None where it is not.

        Raises:
            ConfigError: it is broken, or outside the root.
        """
        name = self.text(*keys)
        for folder in (Path(self.document.path).parent, Path(self.root or "")):
            if name is not None and (folder / name).is_file():
                return read(str(folder / name), root=self.root)
        return None

    def set(self, field: str, value: Any, *keys: str) -> None:
        """A field's value, from the key that states it."""
        line, path = self.document.line(*self._above, *keys), self.document.path
        said = Setting(field=field, value=value, kind=self.kind, key=self._dotted(keys), path=path, line=line)
        self._settings.append(said)

    def assume(self, field: str, value: Any, source: str) -> None:
        """A field's value where no file states it."""
        self._defaults.append(Default(field=field, value=value, source=source))

    def take(self, field: str, value: Any, *keys: str, default: Any, source: str) -> None:
        """A setting where the value is there, else the library's default."""
        if value is not None:
            self.set(field, value, *keys)
        else:
            self.assume(field, default, source)

    def warn(self, message: str, *keys: str, field: str | None = None) -> None:
        """What the estimate does not follow, though it goes on; of a key where one is given."""
        self._notes.append(Note(field=field, message=f"{self._place(keys)}: {message}"))

    def refuse(self, field: str | None, message: str, *keys: str) -> None:
        """What the estimate cannot follow, unless a flag sets ``field`` otherwise."""
        flag = _FLAGS.get(field)
        hint = f"give {flag} to estimate it otherwise" if flag else "take it out of the file to estimate without it"
        self._notes.append(Note(field=field, message=f"{self._place(keys)}: {message}", hint=hint))

    def error(self, what: str, *keys: str) -> ConfigError:
        """An error to raise: the value of a key cannot be."""
        value = self._value(keys)
        got = "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else repr(value)
        got = got if len(got) <= 60 else got[:57] + "..."
        return ConfigError(f"{self.where(*keys)}: {self._dotted(keys)} {what}, got {got}", "correct the file")

    def where(self, *keys: str) -> str:
        """``"train.yaml:12"`` of a key."""
        return self.document.where(*self._above, *keys)

    def done(self) -> Imported:
        """All that was collected."""
        unread = list(self._unread((), self.document.data))
        for keys in unread[:_MOST_COMPARED]:
            absent = {known[-1] for known in self._read if known[:-1] == keys[:-1] and not self.has(*known)}
            if close := get_close_matches(keys[-1], absent, n=1, cutoff=0.9):
                self.warn(f"ignored; did you mean {close[0]}?", *keys)
        return Imported(
            kinds=(self.kind,),
            settings=tuple(self._settings),
            defaults=tuple(self._defaults),
            ignored={self.document.path: tuple(map(self._dotted, unread))},
            notes=tuple(self._notes),
        )

    def _value(self, keys: tuple[str, ...]) -> Any:
        value: Any = self.document.data
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def _place(self, keys: tuple[str, ...]) -> str:
        if not keys:
            return self.document.path
        value = self._value(keys)
        plain = not isinstance(value, dict | list) and value is not None
        return f"{self.where(*keys)}: {self._dotted(keys)}{f' {shown(value)}' if plain else ''}"

    def _dotted(self, keys: tuple[str, ...]) -> str:
        return ".".join(map(printable, (*self._above, *keys)))

    def _unread(self, keys: tuple[str, ...], mapping: dict[str, Any]) -> Iterator[tuple[str, ...]]:
        """The topmost keys with a value of which nothing was read."""
        for name, value in mapping.items():
            place = (*keys, name)
            if isinstance(value, dict) and any(len(r) > len(place) and r[: len(place)] == place for r in self._read):
                yield from self._unread(place, value)
            elif place not in self._read and value is not None:
                yield place

"""The model catalog: entries in ``models/*.toml``, and which of them a name means.

A name is an entry's short name, an alias, a hub id with or without its organisation, or the whole hub id of a copy, in
any case of letters and with spaces or underscores for hyphens. There is no index to keep in step: a name stands quoted
in its entry's file, so a text search finds the one file to parse.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from typing import Any

import msgspec

from memprof.catalog.toml_files import parse, texts


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of the catalog.

    Attributes:
        name: short name, lower case.
        config: Hugging Face config values that differ from the library's defaults, and the dimensions always.
        hf_id: hub id; None for a model that is not on the hub.
        aliases: other short names, and hub ids of its maker's variants with the same dimensions.
        copies: hub ids under which others publish the model, or their tuning of it, with the same dimensions; no
            quantized ones, which take other memory.
        task: default head; None for the family's own.
        source: where the values were read (URL).
    """

    name: str
    config: dict[str, Any]
    source: str
    hf_id: str | None = None
    aliases: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    task: str | None = None

    def spellings(self) -> Iterator[str]:
        """All names that mean this entry, as ``normal`` writes them."""
        for name in (self.name, self.hf_id, *self.aliases):
            if name is not None:
                yield normal(name)
                yield _bare(normal(name))
        yield from map(normal, self.copies)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of entries; ``config`` and ``source`` hold for those that say nothing else.

    TOML cannot say null: an entry's ``null`` lists the config values that are.

    Attributes:
        copied: where an organisation's copies are told to be copies (URL), by the organisation.
    """

    model: tuple[dict[str, Any], ...]
    config: dict[str, Any] = {}
    source: str = ""
    copied: dict[str, str] = {}

    def entries(self) -> Iterator[Entry]:
        for fields in self.model:
            nulls = dict.fromkeys(fields.pop("null", ()))
            config = self.config | fields["config"] | nulls
            yield msgspec.convert({"source": self.source} | fields | {"config": config}, Entry)


def normal(name: str) -> str:
    """A name as it is compared: lower case, hyphens for spaces and underscores."""
    return name.strip().lower().replace(" ", "-").replace("_", "-")


def find(name: str) -> Entry | None:
    """The entry that a name means, or None."""
    wanted = normal(name)
    for text in texts("models"):
        searched = normal(text)
        if f'"{wanted}"' in searched or f'/{wanted}"' in searched:
            for entry in _parse(text):
                if wanted in entry.spellings():
                    return entry
    return None


def entries() -> list[Entry]:
    """The whole catalog, by name."""
    return sorted((entry for text in texts("models") for entry in _parse(text)), key=lambda entry: entry.name)


def names() -> list[str]:
    """Short names of all models, sorted."""
    return [entry.name for entry in entries()]


def close(name: str) -> list[str]:
    """Up to five short names of a family's models that resemble what was typed, the closest first."""
    from difflib import get_close_matches

    wanted = _bare(normal(name))
    families: dict[str, dict[str, str]] = {}
    for entry in entries():
        for spelling in map(_bare, entry.spellings()):
            families.setdefault(_family(spelling), {})[spelling] = entry.name
    nearest = get_close_matches(_family(wanted), families, n=1, cutoff=0.8)
    members = families[nearest[0]] if nearest else {}
    matches = get_close_matches(wanted, members, n=20, cutoff=0.5)
    return list(dict.fromkeys(members[match] for match in matches))[:5]


def _bare(spelling: str) -> str:
    """A hub id without its organisation."""
    return spelling.rpartition("/")[2]


def _family(spelling: str) -> str:
    """The letters that a name begins with: ``qwen`` of ``qwen2.5-0.5b``."""
    return "".join(takewhile(str.isalpha, spelling))


@cache
def _parse(text: str) -> tuple[Entry, ...]:
    return tuple(msgspec.convert(parse(text), _File).entries())

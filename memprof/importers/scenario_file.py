"""A scenario file (YAML) as plain data: mappings, lists and text.

Scalars stay text, so ``torch: 2.10`` is not 2.1; ``memprof.model.decode`` reads them as the type of their field. Only
what a scenario needs is read: one document, no tags, no anchors, no repeated keys.
"""

from __future__ import annotations

from typing import Any

from memprof.errors import ConfigError
from memprof.importers.documents import read_text

MAX_FILE_BYTES = 64 << 10


def read(path: str) -> dict[str, Any]:
    """The top-level mapping of the file at ``path``.

    Raises:
        ConfigError: no such file, not text, too large, not YAML, or not one plain mapping.
    """
    text = read_text(path, what="scenario file", limit=MAX_FILE_BYTES)
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f"scenario file {path}: {error.message}", error.hint) from None


def parse(text: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; see the module for what is refused.

    Raises:
        ConfigError: anything else, with the line.
    """
    from memprof.importers import yaml_lines

    data, _ = yaml_lines.parse(text, plain=True)
    return data

"""The config of ``memprof check``: ``memprof.yaml``, or ``[tool.memprof]`` of a ``pyproject.toml``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from memprof.check.amounts import amount, size
from memprof.errors import ConfigError, UsageError
from memprof.importers.documents import MAX_FILE_BYTES, Document, read
from memprof.model.check_report import Level, Metric, Place
from memprof.model.decode import Where, decode_as

YAML_NAMES = ("memprof.yaml", "memprof.yml")
_PYPROJECT = "pyproject.toml"
_TABLE = ("tool", "memprof")


class Defaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for every check that does not say otherwise.

    Attributes:
        device: beats the scenario's own.
        limit: ``"72 GiB"``, or ``"90 %"`` of the device's memory.
        max_increase: over the baseline: ``"2 %"`` or ``"512 MiB"``.
        level: what a failure counts as; only an error fails the run.
        context: what the card holds for the process outside PyTorch - the CUDA context, communicators - as the user
            measured it: nvidia-smi's figure less the reserved bytes.
    """

    device: str | None = None
    metric: Metric = "device"
    limit: str | None = None
    max_increase: str | None = None
    level: Level = "error"
    context: str | None = None


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One check; what is None is taken from the defaults.

    Attributes:
        scenario: path of a scenario file, or its fields in place; with ``from``, fields that beat the imported ones.
        imported: training configs that describe the scenario together: ``from`` in the file.
    """

    name: str
    scenario: str | dict[str, Any] | None = None
    imported: str | tuple[str, ...] = msgspec.field(default=(), name="from")
    device: str | None = None
    metric: Metric | None = None
    limit: str | None = None
    max_increase: str | None = None
    level: Level | None = None
    context: str | None = None


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What one check demands, the defaults filled in."""

    device: str | None
    metric: Metric
    limit: str | None
    max_increase: str | None
    level: Level
    context_bytes: int | None


class _Fields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    checks: tuple[Check, ...]
    baseline: str = "memprof-baseline.json"
    defaults: Defaults = Defaults()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The checks of one file, and where each of them stands in it.

    Attributes:
        folder: that of the file; the paths it names are relative to it.
        root: the repository that the file belongs to; what it names has to be inside.
        above: keys of the table that holds the config.
    """

    document: Document
    above: tuple[str, ...]
    folder: Path
    root: Path
    checks: tuple[Check, ...]
    baseline: Path
    defaults: Defaults

    def place(self, *keys: str | int) -> Place:
        """Where a field of the config is written."""
        return Place(path=self.shown(self.document.path), line=self.document.line(*self.above, *keys))

    def shown(self, path: str | Path) -> str:
        """A path as reports show it: relative to the repository, with forward slashes."""
        absolute = Path(os.path.realpath(path))
        return absolute.relative_to(self.root).as_posix() if absolute.is_relative_to(self.root) else str(path)

    def rule(self, index: int) -> Rule:
        """What the check at ``index`` demands."""
        check, defaults = self.checks[index], self.defaults
        filled: dict[str, Any] = {
            name: getattr(defaults, name) if getattr(check, name) is None else getattr(check, name)
            for name in ("device", "metric", "limit", "max_increase", "level")
        }
        context = defaults.context if check.context is None else check.context
        return Rule(**filled, context_bytes=None if context is None else size(context))


def find(start: Path) -> Path:
    """The config of the folder ``start``, or of the nearest one above it in the same repository.

    Raises:
        UsageError: there is none.
        ConfigError: one folder holds two.
    """
    for folder in (start, *start.parents):
        found = [folder / name for name in YAML_NAMES if (folder / name).is_file()]
        pyproject = folder / _PYPROJECT
        if pyproject.is_file() and _has_table(pyproject):
            found.append(pyproject)
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise ConfigError(f"{folder} holds checks in {names}", "keep one of them, or name it with --config")
        if found:
            return found[0]
        if (folder / ".git").exists():
            break
    raise UsageError(
        f"no checks are configured in {start} or above",
        "write them into memprof.yaml or [tool.memprof] of pyproject.toml; see memprof check --help",
    )


def load(path: Path) -> Config:
    """The config at ``path``, every value of it checked.

    Raises:
        ConfigError: it cannot be read, or says what cannot be; the message names file and line.
    """
    document = read(str(path), what="config")
    above = _TABLE if path.name == _PYPROJECT else ()
    data: Any = document.data
    for key in above:
        data = data.get(key, {}) if isinstance(data, dict) else {}

    def where(keys: tuple[str | int, ...]) -> str:
        return f"{document.where(*above, *keys)}: "

    fields = decode_as(_Fields, data, "config", where)
    config = Config(
        document=document,
        above=above,
        folder=path.parent,
        root=_root(Path(os.path.realpath(path)).parent),
        checks=fields.checks,
        baseline=path.parent / fields.baseline,
        defaults=fields.defaults,
    )
    if not Path(os.path.realpath(config.baseline)).is_relative_to(config.root):
        raise ConfigError(f"{where(('baseline',))}baseline {fields.baseline} lies outside the repository", "move it in")
    _check(config, where)
    return config


def _check(config: Config, where: Where) -> None:
    """What the types do not say.

    Raises:
        ConfigError: two checks of one name, one without a scenario or a limit, or a limit that is none.
    """
    if not config.checks:
        raise ConfigError(f"{where(('checks',))}checks is empty", "list at least one, with a name and a scenario")
    seen: set[str] = set()
    for index, check in enumerate(config.checks):
        here = where(("checks", index))
        if not check.name.strip() or not check.name.isprintable():
            raise ConfigError(f"{here}a check's name must be one line of text, got {check.name!r}")
        if check.name in seen:
            raise ConfigError(f"{here}two checks are called {check.name!r}", "rename one of them")
        seen.add(check.name)
        if check.scenario is None and not check.imported:
            hint = "add scenario: a file or its fields, or from: a training config"
            raise ConfigError(f"{here}check {check.name!r} has no scenario", hint)
        if check.imported and isinstance(check.scenario, str):
            hint = "write the fields that beat the imported ones in place"
            raise ConfigError(f"{here}check {check.name!r} has a scenario file and from", hint)
        try:
            rule = config.rule(index)
            given = [amount(text, None) for text in (rule.limit, rule.max_increase) if text is not None]
        except ConfigError as error:
            raise ConfigError(f"{here}check {check.name!r}: {error.message}", error.hint) from None
        if not given:
            hint = "add limit, such as 90 %, or max_increase"
            raise ConfigError(f"{here}check {check.name!r} has nothing to hold", hint)


def _has_table(pyproject: Path) -> bool:
    """Whether it holds the table; what does not name it is not even parsed."""
    try:
        with pyproject.open("rb") as file:
            is_named = _TABLE[1].encode() in file.read(MAX_FILE_BYTES)
    except OSError:
        return False
    tools = read(str(pyproject), what="config").data.get(_TABLE[0]) if is_named else None
    return isinstance(tools, dict) and _TABLE[1] in tools


def _root(folder: Path) -> Path:
    """The repository around a folder; the folder itself outside of one."""
    return next((above for above in (folder, *folder.parents) if (above / ".git").exists()), folder)

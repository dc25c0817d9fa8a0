"""An interpreter that sees memprof and its core dependencies and nothing else, made without a network."""

from __future__ import annotations

import sys
import venv
from collections.abc import Iterator
from importlib.metadata import PackagePath, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def core_python(folder: Path) -> Path:
    """A virtual environment in ``folder`` that links to what `pip install memprof-gpu` would install."""
    venv.create(folder, symlinks=True, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    (packages / "memprof").symlink_to(ROOT / "memprof")
    for name in _core():
        found = distribution(name)
        for top in {path.parts[0] for path in found.files or [] if _is_inside(path)}:
            (packages / top).symlink_to(Path(str(found.locate_file(top))))
    return folder / "bin" / "python"


def _core() -> list[str]:
    """Every distribution that the core needs, each once."""
    names: dict[str, None] = {}
    todo = list(_requirements("memprof-gpu"))
    while todo:
        name = todo.pop()
        if name not in names:
            names[name] = None
            todo += _requirements(name)
    return list(names)


def _requirements(name: str) -> Iterator[str]:
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name


def _is_inside(path: PackagePath) -> bool:
    """Whether a file lies in site-packages, and not among the scripts."""
    return path.parts[0] not in ("..", "__pycache__")

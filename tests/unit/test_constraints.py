from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
DECLARED = [Requirement(line) for group in GROUPS for line in group if not line.startswith(PROJECT["name"])]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
PYTHONS = [found[1] for name in PROJECT["classifiers"] if (found := re.search(r":: (3\.\d+)$", name))]


def applies(requirement: Requirement, python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"python_version": python})


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_one_pin_that_it_accepts(python: str) -> None:
    pins = [pin for pin in PINS if applies(pin, python)]
    for requirement in (wanted for wanted in DECLARED if applies(wanted, python)):
        name = canonicalize_name(requirement.name)
        [pin] = [pin for pin in pins if canonicalize_name(pin.name) == name]
        [specifier] = pin.specifier
        assert specifier.operator == "=="
        assert requirement.specifier.contains(specifier.version)


def test_pins_name_no_local_version() -> None:
    assert not [pin for pin in PINS if "+" in str(pin.specifier)]


def test_no_build_file_names_a_package_registry() -> None:
    for file in ("pyproject.toml", "constraints.txt", "Makefile", ".ci/run"):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not re.search(r"index-url|find-links|https?://", text), file

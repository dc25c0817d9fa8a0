from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from memprof import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy, as a build leaves files in the tree it builds from."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "memprof", source / "memprof", ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [built] = out.glob("*.whl")
    return zipfile.ZipFile(built)


def test_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "memprof").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"memprof/py.typed", "memprof/catalog/devices/cpu.toml"} <= sources
    assert sources <= set(wheel.namelist())


def test_wheel_holds_the_scenarios_that_verify_runs(wheel: zipfile.ZipFile) -> None:
    sources = {f"memprof/{path.as_posix()}" for path in Path("scenarios").rglob("*") if path.is_file()}
    assert "memprof/scenarios/suites.yaml" in sources
    assert sources <= set(wheel.namelist())


def test_wheel_holds_nothing_but_the_package_and_its_papers(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"memprof", f"memprof_gpu-{__version__}.dist-info"}
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())

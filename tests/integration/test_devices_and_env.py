from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from memprof import __version__
from memprof.__main__ import main
from memprof.catalog.device_catalog import devices


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


def test_devices_are_listed_with_their_memory_and_its_source(wide: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == {"device"} | {device.name for device in devices()}
    assert " 79.25 GiB " in lines["a100-80gb"]
    assert "https://github.com/HiDream-ai/VAREdit/issues/6" in lines["a100-80gb"]
    assert " ~44.70 GiB " in lines["l40s-48gb"]


def test_devices_as_json_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    by_name = {device["name"]: device for device in json.loads(capsys.readouterr().out)}
    assert by_name["h100-80gb"]["total_bytes"] == 84942979072
    assert by_name["h100-80gb"]["peak_flops"]["bfloat16"] == 989.5e12
    assert by_name["cpu"]["total_bytes"] is None


def test_env_names_versions_and_only_variables_that_are_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["memprof"] == __version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["torch"].startswith("2.")
    assert found["variables"]["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert "CUBLAS_WORKSPACE_CONFIG" not in found["variables"]


def test_env_says_why_devices_were_not_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert main(["env"]) == 0
    assert "not checked: nvidia-ml-py is not installed" in capsys.readouterr().out


class Nvml(ModuleType):
    """Two cards, or a driver that does not answer."""

    class NVMLError(Exception):
        pass

    def __init__(self, broken: bool = False) -> None:
        super().__init__("pynvml")
        self.broken, self.is_open = broken, False

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")
        self.is_open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.is_open = False

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.1"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return f"Card {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=80 << 30, used=handle << 30)


def test_env_lists_cuda_devices_and_closes_nvml(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert "Card 0, 80.00 GiB by NVML, driver 580.1" in out
    assert "CUDA device 1" in out
    assert not nvml.is_open


def test_env_survives_a_driver_that_does_not_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(broken=True))
    assert main(["env"]) == 0
    assert "not checked: NVML: Driver Not Loaded" in capsys.readouterr().out

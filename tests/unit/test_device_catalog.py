from __future__ import annotations

import re
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from memprof.catalog import device_catalog
from memprof.catalog.device_catalog import device, device_names, devices, spellings
from memprof.errors import DeviceError
from memprof.model.device import Device
from memprof.units import GiB, MiB

FILES = sorted(Path(device_catalog.__file__).with_name("devices").glob("*.toml"))
# Dtypes without units of their own on these architectures: no bfloat16 before Ampere, no float8 before Ada and Hopper.
LACKS = {
    "sm_60": {"bfloat16", "tf32", "float8"},
    "sm_70": {"bfloat16", "tf32", "float8"},
    "sm_75": {"bfloat16", "tf32", "float8"},
    "sm_80": {"float8"},
    "sm_86": {"float8"},
    "gfx90a": {"tf32", "float8"},
}


@pytest.mark.parametrize("entry", devices(), ids=lambda entry: entry.name)
class TestEntry:
    def test_every_spelling_finds_it(self, entry: Device) -> None:
        for spelling in spellings(entry):
            assert device(spelling) == entry
        assert device(f" {entry.title.upper().replace(' ', '_')}") == entry

    def test_memory_has_a_source_or_is_nominal(self, entry: Device) -> None:
        if entry.kind == "cpu":
            assert entry.total_bytes is None
            assert not entry.nominal
        else:
            assert entry.total_bytes is not None
            assert entry.total_source.startswith("https://") != entry.nominal

    def test_memory_is_near_what_the_name_says(self, entry: Device) -> None:
        if entry.total_bytes is None:
            return
        gigabytes = int(re.fullmatch(r".*-(\d+)gb", entry.name)[1])  # type: ignore[index]
        assert 0.90 * gigabytes * GiB < entry.total_bytes < 1.0 * gigabytes * GiB or entry.name == "gb200-186gb"

    def test_peaks_fit_the_architecture(self, entry: Device) -> None:
        if entry.kind == "cpu":
            assert entry.peak_flops == {}
            return
        expected = {"float32", "tf32", "bfloat16", "float16", "float8"} - LACKS.get(entry.architecture, set())
        assert set(entry.peak_flops) == expected
        assert entry.memory_bandwidth_bytes_per_s is not None
        assert entry.source.startswith("https://")

    def test_tensor_core_peaks_are_dense_and_scale_with_the_width_of_the_type(self, entry: Device) -> None:
        peaks = entry.peak_flops
        for narrow, wide in (("float16", "tf32"), ("float8", "float16")):
            if {narrow, wide} <= set(peaks):
                assert peaks[narrow] / peaks[wide] == pytest.approx(2.0, rel=0.03)
        if "bfloat16" in peaks:
            assert peaks["bfloat16"] == peaks["float16"]

    def test_date_is_a_date(self, entry: Device) -> None:
        assert not entry.checked or date.fromisoformat(entry.checked) >= date(2026, 1, 1)


def test_no_two_devices_share_a_name() -> None:
    counts = Counter(spelling for entry in devices() for spelling in set(spellings(entry)))
    assert [spelling for spelling, count in counts.items() if count > 1] == []


def test_bytes_are_what_the_comment_beside_them_says_was_printed() -> None:
    lines = [line for file in FILES for line in file.read_text(encoding="utf-8").splitlines() if "# printed as" in line]
    assert len(lines) > 15
    for line in lines:
        num_bytes, printed, decimals, unit = re.fullmatch(  # type: ignore[union-attr]
            r"total_bytes = (\d+) # printed as (\d+(?:\.(\d+))?) (GiB|GB|MB|mb)\b.*", line
        ).groups()
        step = GiB if unit in ("GiB", "GB") else MiB
        assert round(int(num_bytes) / step, len(decimals or "")) == float(printed)


@pytest.mark.parametrize("name", ["h10", "h100-80", "80gb", "H100 80GB HBM3 nonsense", "", " ", '"', "title"])
def test_a_part_of_a_name_is_not_a_name(name: str) -> None:
    with pytest.raises(DeviceError):
        device(name)


def test_an_ambiguous_name_lists_what_it_could_mean() -> None:
    with pytest.raises(DeviceError) as raised:
        device("A100")
    assert raised.value.hint == "did you mean a100-40gb or a100-80gb or a100-pcie-40gb or a100-pcie-80gb?"


def test_a_misspelt_name_is_answered_with_the_closest() -> None:
    with pytest.raises(DeviceError, match="did you mean rtx-4090-24gb"):
        device("rtx4090-24gb")


def test_a_name_like_no_other_points_to_the_list() -> None:
    with pytest.raises(DeviceError, match="memprof devices lists them"):
        device("zx81")


def test_the_devices_that_people_ask_for_are_there() -> None:
    asked = "h100-80gb h100-pcie-80gb h100-nvl-94gb h200-141gb a100-40gb a100-80gb a10g-24gb l4-24gb l40s-48gb t4-16gb"
    asked += " v100-16gb v100-32gb rtx-3060-12gb rtx-3090-24gb rtx-4060-8gb rtx-4090-24gb rtx-5090-32gb"
    asked += " rtx-6000-ada-48gb b200-180gb mi300x-192gb cpu"
    assert set(asked.split()) <= set(device_names())

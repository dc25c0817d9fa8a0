from __future__ import annotations

import json
from pathlib import Path

import pytest

from memprof.check.baseline import Baseline, Entry, component_growth, difference, encode, entry, read
from memprof.errors import ConfigError
from memprof.units import GiB
from tests.support.results import make_result


def make_entry(weights: int = 4 * GiB, reserved: int | None = 6 * GiB) -> Entry:
    components = {"weights": weights, "activations": GiB, "kv_cache": 0}
    metrics = {"allocated": weights + GiB, "reserved": reserved, "device": None}
    return Entry(metrics=metrics, components=components, settings={"model": "gpt2", "offload": ["optimizer"]})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    baseline = Baseline(checks={"b": make_entry(), "a": make_entry(GiB)})
    path.write_text(encode(baseline), encoding="utf-8")
    assert read(path) == baseline


def test_the_file_is_the_same_whatever_the_order_and_ends_in_a_newline() -> None:
    one = encode(Baseline(checks={"a": make_entry(), "b": make_entry(GiB)}))
    other = encode(Baseline(checks={"b": make_entry(GiB), "a": make_entry()}))
    assert one == other
    assert one.endswith("}\n")
    assert list(json.loads(one)["checks"]) == ["a", "b"]


def test_an_entry_has_all_three_metrics_and_every_component() -> None:
    result = make_result()
    made = entry(result, {"model": "llama-13b"})
    assert made.metrics == {"allocated": result.peak.allocated_bytes, "reserved": None, "device": None}
    assert sum(made.components.values()) == made.metrics["allocated"]


def test_the_difference_names_what_is_new_gone_and_changed() -> None:
    before = Baseline(checks={"gone": make_entry(), "same": make_entry(), "grown": make_entry()})
    after = Baseline(checks={"new": make_entry(), "same": make_entry(), "grown": make_entry(5 * GiB, 8 * GiB)})
    assert difference(before, after) == [
        "- gone",
        "~ grown: 5.00 GiB allocated, 6.00 GiB reserved -> 6.00 GiB allocated, 8.00 GiB reserved",
        "    weights +1.00 GiB",
        "+ new: 5.00 GiB allocated, 6.00 GiB reserved",
    ]
    assert difference(after, after) == []
    assert difference(None, after)[0].startswith("+ grown")


def test_component_growth_is_largest_first_and_leaves_out_what_stays() -> None:
    grown = component_growth({"a": 1, "b": 5, "c": 2}, {"a": 4, "c": 2, "d": 9})
    assert list(grown.items()) == [("d", 9), ("a", 3), ("b", -5)]


def test_no_file_is_no_baseline(tmp_path: Path) -> None:
    assert read(tmp_path / "missing.json") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no baseline"),
        ("[]", "is no baseline"),
        ('{"checks": {"a": {}}}', "is no baseline"),
        ('{"schema_version": 2}', "has schema_version 2, not 1"),
        ("[" * 10_000, "is no baseline"),
        ('{"checks": {"a": {"metrics": {"allocated": 1.5}, "components": {}, "settings": {}}}}', "is no baseline"),
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as raised:
        read(path)
    assert raised.value.hint == "remove it, then write it anew with memprof check --update-baseline"

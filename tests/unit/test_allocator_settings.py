from __future__ import annotations

import pytest

from memprof.allocator.rules import NUM_ROUNDUP_INTERVALS
from memprof.allocator.settings import DEFAULTS, Settings, parse_conf
from memprof.errors import ConfigError
from memprof.model.scenario import Allocator
from memprof.units import MiB


def test_nothing_set_is_pytorchs_default() -> None:
    assert parse_conf("") == Settings.of(Allocator()) == DEFAULTS
    assert DEFAULTS.large_segment_bytes == 20 * MiB


def test_a_string_and_a_scenario_mean_the_same() -> None:
    text = (
        "expandable_segments:True, max_split_size_mb:128,roundup_power2_divisions:4,"
        "garbage_collection_threshold:0.8,large_segment_size_mb:24"
    )
    scenario = Allocator(
        expandable_segments=True,
        max_split_size_mb=128,
        roundup_power2_divisions=4,
        garbage_collection_threshold=0.8,
        large_segment_size_mb=24,
    )
    assert parse_conf(text) == Settings.of(scenario)
    assert parse_conf(text).max_split_bytes == 128 * MiB


def test_divisions_by_size_fill_the_intervals_as_upstream_does() -> None:
    divisions = parse_conf("roundup_power2_divisions:[64:8, 256:4,1024:0,>:1]").roundup_divisions
    assert len(divisions) == NUM_ROUNDUP_INTERVALS
    assert divisions == (8, 8, 8, 8, 8, 8, 8, 0, 4, 0, 0, 1, 1, 1, 1, 1)  # 1 MiB, 2 MiB, ... 32 GiB


def test_keys_that_do_not_matter_here_are_let_through() -> None:
    assert parse_conf("pinned_use_background_threads:True,backend:native,release_lock_on_cudamalloc:True") == DEFAULTS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_split_size_mb", "is not key:value"),
        ("max_split_size_mb:128,,", "is not key:value"),
        ("max_split_size_mb:large", "allocator.max_split_size_mb must be a whole number, got 'large'"),
        ("max_split_size_mb:19", "allocator.max_split_size_mb must be >= 20"),
        ("large_segment_size_mb:40,max_split_size_mb:30", "allocator.max_split_size_mb must be >= 40"),
        ("large_segment_size_mb:10", "allocator.large_segment_size_mb must be > 10, got 10"),
        ("garbage_collection_threshold:1.0", "must lie between 0 and 1, got 1.0"),
        ("garbage_collection_threshold:much", "must be a number, got 'much'"),
        ("roundup_power2_divisions:3", "must be a power of two, got 3"),
        ("roundup_power2_divisions:[64:8,100:2]", "must be a power of two, got 100"),
        ("expandable_segments:yes", "must be True or False, got 'yes'"),
        ("expandable_segment:True", "allocator setting 'expandable_segment' is unknown"),
        ("backend:cudaMallocAsync", "backend cudaMallocAsync is not modelled"),
    ],
)
def test_what_pytorch_refuses_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_conf(text)
    assert message in str(caught.value)


def test_a_scenario_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="power of two"):
        Settings.of(Allocator(roundup_power2_divisions=6))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Settings.of(Allocator(garbage_collection_threshold=1.5))


def test_a_threshold_without_a_fraction_is_said_to_do_nothing() -> None:
    alone = parse_conf("garbage_collection_threshold:0.8")
    assert "has no effect" in alone.warnings[0]
    assert parse_conf("garbage_collection_threshold:0.8,per_process_memory_fraction:0.9").warnings == []

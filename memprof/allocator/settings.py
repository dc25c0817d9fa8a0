"""Settings of the caching allocator: from a scenario, or from a ``PYTORCH_ALLOC_CONF`` string."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from memprof.allocator.rules import NUM_ROUNDUP_INTERVALS, RULES
from memprof.errors import ConfigError
from memprof.model.scenario import Allocator
from memprof.units import MiB

# Keys that torch 2.6-2.13 accept and that do not change which memory is taken (they speed up or pin host memory).
# Source: torch 2.13 wheel: include/c10/core/AllocatorConfig.h, include/c10/cuda/CUDAAllocatorConfig.h
_WITHOUT_EFFECT = frozenset({
    "release_lock_on_cudamalloc", "release_lock_on_hipmalloc", "throw_on_cudamalloc_oom",
    "graph_capture_record_stream_reuse", "pinned_use_cuda_host_register", "pinned_use_hip_host_register",
    "pinned_num_register_threads", "pinned_use_background_threads", "pinned_max_round_threshold_mb",
    "pinned_max_cached_size_mb", "pinned_reserve_segment_size_mb", "pinned_free_catch_all",
})  # fmt: skip
_ITEM = re.compile(r"\s*([\w>]+)\s*:\s*(\[[^\]]*\]|[^,\[\]]+?)\s*(?:,|\Z)")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What ``PYTORCH_ALLOC_CONF`` can change; sizes in bytes.

    Attributes:
        max_split_bytes: blocks of at least this size are never split, nor lent to smaller requests; None: no limit.
        max_non_split_rounding_bytes: how much larger than its request such a block may be; None: a large segment.
        roundup_divisions: parts of an octave by interval from 1 MiB, 16 entries; empty: not set.
        memory_fraction: share of the device that the process allows itself; None: all. Garbage collection works only
            where it is set.
    """

    expandable_segments: bool = False
    max_split_bytes: int | None = None
    max_non_split_rounding_bytes: int | None = None
    roundup_divisions: tuple[int, ...] = ()
    garbage_collection_threshold: float | None = None
    large_segment_bytes: int = 20 * MiB
    memory_fraction: float | None = None

    @classmethod
    def of(cls, allocator: Allocator) -> Settings:
        """The settings that a scenario names.

        Raises:
            ConfigError: a value that PyTorch refuses.
        """
        divisions = allocator.roundup_power2_divisions
        return _checked({
            "expandable_segments": allocator.expandable_segments,
            "max_split_size_mb": allocator.max_split_size_mb,
            "roundup_power2_divisions": None if divisions is None else _same_everywhere(divisions),
            "garbage_collection_threshold": allocator.garbage_collection_threshold,
            "large_segment_size_mb": allocator.large_segment_size_mb,
        })  # fmt: skip

    @property
    def warnings(self) -> list[str]:
        """What is set and does nothing."""
        if self.garbage_collection_threshold is not None and self.memory_fraction is None:
            return [
                "allocator.garbage_collection_threshold has no effect until the program calls "
                "torch.cuda.set_per_process_memory_fraction"
            ]
        return []


DEFAULTS = Settings()


def parse_conf(text: str) -> Settings:
    """The settings of ``"expandable_segments:True,max_split_size_mb:128"``; an empty string gives the defaults.

    Raises:
        ConfigError: not ``key:value`` pairs, a key that torch does not know, a value that it refuses, or
            ``backend:cudaMallocAsync``, which is another allocator altogether.

    Source: ``AcceleratorAllocatorConfig::parseArgs`` in c10/core/AllocatorConfig.cpp.
    """
    values: dict[str, object] = {}
    position = 0
    text = text.strip()
    while position < len(text):
        item = _ITEM.match(text, position)
        if item is None:
            raise ConfigError(
                f"{text[position:]!r} in the allocator settings is not key:value",
                "write them as in PYTORCH_ALLOC_CONF, such as expandable_segments:True,max_split_size_mb:128",
            )
        key, value = item.groups()
        if key in _PARSERS:
            values[key] = _PARSERS[key](key, value)
        elif key == "backend":
            if value != "native":
                raise ConfigError(f"allocator backend {value} is not modelled", "only backend:native is")
        elif key not in _WITHOUT_EFFECT:
            raise ConfigError(
                f"allocator setting {key!r} is unknown", "known are " + ", ".join(sorted({*_PARSERS, *_WITHOUT_EFFECT}))
            )
        position = item.end()
    return _checked(values)


def _checked(values: dict[str, object]) -> Settings:
    """The settings of PyTorch's own keys; a value of None is one that is not set."""
    given = {key: value for key, value in values.items() if value is not None}
    large_mb = given.get("large_segment_size_mb", 20)
    assert isinstance(large_mb, int)
    if large_mb * MiB <= RULES.large_request:
        raise ConfigError(f"allocator.large_segment_size_mb must be > {RULES.large_request // MiB}, got {large_mb}")
    for key in ("max_split_size_mb", "max_non_split_rounding_mb"):
        size_mb = given.get(key, large_mb)
        if isinstance(size_mb, int) and size_mb < large_mb:
            raise ConfigError(f"allocator.{key} must be >= {large_mb}, the large segment, got {size_mb}")
    for key in ("garbage_collection_threshold", "per_process_memory_fraction"):
        share = given.get(key, 0.5)
        # A fraction of all is allowed; a threshold of all would never be passed.
        if isinstance(share, (int, float)) and not (0 < share < 1 or (share == 1 and key.startswith("per_"))):
            raise ConfigError(f"allocator.{key} must lie between 0 and 1, got {share}")
    fields = {_FIELDS[key]: value * MiB if key.endswith("_mb") else value for key, value in given.items()}  # type: ignore[operator]
    return Settings(**fields)  # type: ignore[arg-type]


def _integer(key: str, value: str) -> int:
    if not value.isdigit():
        raise ConfigError(f"allocator.{key} must be a whole number, got {value!r}")
    return int(value)


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"allocator.{key} must be a number, got {value!r}") from None


def _boolean(key: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise ConfigError(f"allocator.{key} must be True or False, got {value!r}")
    return value == "True"


def _divisions(key: str, value: str) -> tuple[int, ...]:
    """``4``, or by the request's size in MiB: ``[64:8,256:4,>:1]``.

    Source: ``parseRoundUpPower2Divisions`` in c10/core/AllocatorConfig.cpp: the first entry also holds below its
    boundary, ``>`` holds above the last, and an interval that no entry names is not rounded.
    """
    if not value.startswith("["):
        return _same_everywhere(_integer(key, value))
    divisions = [0] * NUM_ROUNDUP_INTERVALS
    last = 0
    for number, entry in enumerate(value[1:-1].split(",")):
        boundary, _, parts = (piece.strip() for piece in entry.partition(":"))
        each = _power_of_two(key, _integer(key, parts)) if parts != "0" else 0
        if boundary == ">":
            divisions[last + 1 :] = [each] * (NUM_ROUNDUP_INTERVALS - last - 1)
            continue
        last = min(_power_of_two(key, _integer(key, boundary)).bit_length() - 1, NUM_ROUNDUP_INTERVALS - 1)
        if number == 0:
            divisions[:last] = [each] * last
        divisions[last] = each
    return tuple(divisions)


def _same_everywhere(divisions: int) -> tuple[int, ...]:
    return (_power_of_two("roundup_power2_divisions", divisions),) * NUM_ROUNDUP_INTERVALS


def _power_of_two(key: str, value: int) -> int:
    if value < 1 or value & (value - 1):
        raise ConfigError(f"allocator.{key} must be a power of two, got {value}")
    return value


_PARSERS: dict[str, Callable[[str, str], object]] = {
    "expandable_segments": _boolean,
    "max_split_size_mb": _integer,
    "max_non_split_rounding_mb": _integer,
    "roundup_power2_divisions": _divisions,
    "garbage_collection_threshold": _number,
    "large_segment_size_mb": _integer,
    "per_process_memory_fraction": _number,
}
_FIELDS = {
    "expandable_segments": "expandable_segments",
    "max_split_size_mb": "max_split_bytes",
    "max_non_split_rounding_mb": "max_non_split_rounding_bytes",
    "roundup_power2_divisions": "roundup_divisions",
    "garbage_collection_threshold": "garbage_collection_threshold",
    "large_segment_size_mb": "large_segment_bytes",
    "per_process_memory_fraction": "memory_fraction",
}

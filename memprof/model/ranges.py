"""The range of each number in a scenario, by dotted field."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator

from memprof.model.scenario import Scenario

Bound = tuple[str, float]

_HOLDS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_COUNT: tuple[Bound, ...] = ((">=", 1), ("<=", 10**9))
_ELEMENTS: tuple[Bound, ...] = ((">=", 1), ("<", 2**63))
_ELEMENTS_OR_NONE: tuple[Bound, ...] = ((">=", 0), ("<", 2**63))
_RATE: tuple[Bound, ...] = ((">=", 0), ("<", 1))

# Allocator limits: https://github.com/pytorch/pytorch/blob/main/c10/core/AllocatorConfig.cpp, its parse functions.
RANGES: dict[str, tuple[Bound, ...]] = {
    "batch.micro_batch_size": _COUNT,
    "batch.sequence_length": _COUNT,
    "batch.target_length": _COUNT,
    "batch.gradient_accumulation_steps": _COUNT,
    "batch.image_size": _COUNT,
    "batch.new_tokens": _COUNT,
    "optimizer.momentum": _RATE,
    "optimizer.weight_decay": ((">=", 0), ("<", float("inf"))),
    "checkpointing.every": _COUNT,
    "adapter.rank": _COUNT,
    "adapter.dropout": _RATE,
    "parallelism.data": _COUNT,
    "parallelism.replicate": _COUNT,
    "parallelism.tensor": _COUNT,
    "parallelism.pipeline": _COUNT,
    "parallelism.context": _COUNT,
    "parallelism.expert": _COUNT,
    "parallelism.zero.reduce_bucket_size": _ELEMENTS,
    "parallelism.zero.sub_group_size": _ELEMENTS,
    "parallelism.zero.prefetch_bucket_size": _ELEMENTS_OR_NONE,
    "parallelism.zero.param_persistence_threshold": _ELEMENTS_OR_NONE,
    "parallelism.zero.max_live_parameters": _ELEMENTS_OR_NONE,
    "parallelism.zero.max_reuse_distance": _ELEMENTS_OR_NONE,
    "loop.clip_grad_norm": ((">", 0), ("<=", float("inf"))),
    "loop.dropout": _RATE,
    "allocator.max_split_size_mb": ((">=", 20), ("<=", 10**9)),
    "allocator.roundup_power2_divisions": _COUNT,
    "allocator.garbage_collection_threshold": ((">", 0), ("<", 1)),
    "allocator.large_segment_size_mb": _COUNT,
    "seed": ((">=", 0), ("<", 2**64)),
}

_VERSION = re.compile(r"\d+(\.\d+)+[-+.a-z0-9]*\Z")


def out_of_range(scenario: Scenario) -> Iterator[tuple[str, str | None]]:
    """(message, hint) for each single value that no step could have; NaN lies in no range."""
    for dotted, bounds in RANGES.items():
        value = _value(scenario, dotted)
        for sign, bound in bounds:
            if not isinstance(value, str | None) and not _HOLDS[sign](value, bound):
                yield f"{dotted} must be {sign} {bound:,}, got {value}", None
    divisions = scenario.allocator.roundup_power2_divisions
    if divisions is not None and divisions.bit_count() != 1:
        yield f"allocator.roundup_power2_divisions must be a power of 2, got {divisions}", None
    for dotted in ("model", "device"):
        if not getattr(scenario, dotted).strip():
            yield f"{dotted} is empty", f"memprof {dotted}s lists the names it knows"
    for library in ("torch", "transformers"):
        version = getattr(scenario.software, library)
        if version is not None and not _VERSION.match(version):
            yield f"software.{library} must be a version such as 2.10.0, got {version!r}", None
    targets = scenario.adapter.target_modules if scenario.adapter else None
    if targets is not None and not all(targets or ("",)):
        yield "adapter.target_modules names no module", "write names such as q_proj, or null for PEFT's default"


def _value(scenario: Scenario, dotted: str) -> float | str | None:
    part: object = scenario
    for name in dotted.split("."):
        part = None if part is None or isinstance(part, str) else getattr(part, name)
    return part  # type: ignore[return-value]

"""The other ways to run a model that every estimate shows: the changes people try first, cheapest to make first."""

from __future__ import annotations

from typing import Any

import msgspec

from memprof.model.scenario import Adapter, Batch, Loop, Optimizer, Parallelism, Scenario

Change = tuple[str, dict[str, Any]]

_TRAINING: tuple[Change, ...] = (
    ("pure bf16", {"precision": "bf16"}),
    ("bf16, 8-bit Adam", {"precision": "bf16", "optimizer.name": "adamw-8bit"}),
    (
        "bf16, 8-bit Adam, checkpointing",
        {"precision": "bf16", "optimizer.name": "adamw-8bit", "checkpointing": "full"},
    ),
    ("LoRA rank 16, bf16", {"precision": "bf16", "adapter.rank": 16}),
    (
        "QLoRA rank 16, checkpointing",
        {"precision": "bf16", "adapter.rank": 16, "quantization": "nf4-double", "checkpointing": "full"},
    ),
    (
        "FSDP over 8 GPUs, checkpointing",
        {"parallelism.strategy": "fsdp", "parallelism.data": 8, "checkpointing": "full"},
    ),
    ("inference, bf16", {"mode": "inference", "precision": "bf16"}),
)
_INFERENCE: tuple[Change, ...] = (
    ("bf16", {"mode": "inference", "precision": "bf16"}),
    ("bf16, 8-bit weights", {"mode": "inference", "precision": "bf16", "quantization": "int8"}),
    ("bf16, NF4 weights", {"mode": "inference", "precision": "bf16", "quantization": "nf4"}),
)


def other_ways(scenario: Scenario) -> list[tuple[str, dict[str, Any], Scenario]]:
    """(name, dotted changes, scenario) of each way that differs from the scenario itself."""
    changes = _TRAINING if scenario.mode == "train" else _INFERENCE
    ways = ((name, change, _applied(scenario, change)) for name, change in changes)
    return [(name, change, way) for name, change, way in ways if way != scenario]


def _applied(scenario: Scenario, change: dict[str, Any]) -> Scenario:
    replace = msgspec.structs.replace
    sharded = change.get("parallelism.strategy")
    base = replace(
        scenario,
        mode=change.get("mode", "train"),
        precision=change.get("precision", scenario.precision),
        checkpointing=change.get("checkpointing", "none"),
        quantization=change.get("quantization"),
        adapter=Adapter(rank=change["adapter.rank"]) if "adapter.rank" in change else None,
        parallelism=Parallelism(strategy=sharded, data=change["parallelism.data"]) if sharded else Parallelism(),
        optimizer=Optimizer(name=change.get("optimizer.name", "adamw")),
        offload=(),
    )
    if base.mode == "train":
        return replace(base, batch=replace(base.batch, new_tokens=None))
    batch = Batch(
        micro_batch_size=base.batch.micro_batch_size,
        sequence_length=base.batch.sequence_length,
        new_tokens=base.batch.new_tokens,
    )
    return replace(base, optimizer=Optimizer(), loop=Loop(), batch=batch)

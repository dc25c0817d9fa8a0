from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import ConfigError
from memprof.importers.overrides import lay_over
from memprof.model.consistency import check, without_effect
from memprof.model.decode import decode
from memprof.model.ranges import RANGES
from memprof.model.scenario import Scenario


def scenario(**fields: Any) -> Scenario:
    """gpt2 with fields by dotted name, a double underscore for the dot."""
    return decode(lay_over({"model": "gpt2"}, [(name.replace("__", "."), value) for name, value in fields.items()]))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch.micro_batch_size", -1, "batch.micro_batch_size must be >= 1, got -1"),
        ("batch.sequence_length", 0, "batch.sequence_length must be >= 1, got 0"),
        ("batch.gradient_accumulation_steps", 0, "batch.gradient_accumulation_steps must be >= 1, got 0"),
        ("batch.micro_batch_size", 10**10, "batch.micro_batch_size must be <= 1,000,000,000, got 10000000000"),
        ("parallelism.data", 0, "parallelism.data must be >= 1, got 0"),
        ("adapter.rank", 0, "adapter.rank must be >= 1, got 0"),
        ("adapter.dropout", 1.0, "adapter.dropout must be < 1, got 1.0"),
        ("adapter.target_modules", [], "adapter.target_modules names no module"),
        ("adapter.target_modules", ["q_proj", ""], "adapter.target_modules names no module"),
        ("checkpointing.every", 0, "checkpointing.every must be >= 1, got 0"),
        ("loop.clip_grad_norm", 0, "loop.clip_grad_norm must be > 0, got 0.0"),
        ("loop.dropout", float("nan"), "loop.dropout must be >= 0, got nan"),
        ("allocator.max_split_size_mb", 19, "allocator.max_split_size_mb must be >= 20, got 19"),
        ("allocator.roundup_power2_divisions", 3, "allocator.roundup_power2_divisions must be a power of 2, got 3"),
        ("allocator.garbage_collection_threshold", 1, "allocator.garbage_collection_threshold must be < 1, got 1.0"),
        ("software.torch", "newest", "software.torch must be a version such as 2.10.0, got 'newest'"),
        ("seed", -1, "seed must be >= 0, got -1"),
        ("model", " ", "model is empty"),
        ("device", "", "device is empty"),
    ],
)
def test_a_value_out_of_range_names_its_field_and_bound(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(decode(lay_over({"model": "gpt2"}, [(field, value)])))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parallelism__data": 8}, "parallelism.data is 8, but parallelism.strategy is none"),
        ({"parallelism__strategy": "zero2"}, "parallelism.strategy zero2 needs more than one GPU"),
        ({"parallelism__strategy": "fsdp"}, "parallelism.strategy fsdp needs more than one GPU"),
        ({"parallelism__strategy": "hsdp", "parallelism__data": 4}, "parallelism.strategy hsdp replicates"),
        (
            {"parallelism__strategy": "fsdp", "parallelism__data": 4, "parallelism__replicate": 2},
            "parallelism.replicate is 2",
        ),
        (
            {"mode": "inference", "parallelism__strategy": "zero2", "parallelism__data": 2},
            "parallelism.strategy zero2 shards what inference does not have",
        ),
        ({"offload": ["optimizer"], "device": "cpu"}, "offload moves state to the CPU"),
        ({"offload": ["optimizer"], "mode": "inference"}, "offload names the optimizer"),
        (
            {"offload": ["parameters"], "parallelism__strategy": "zero2", "parallelism__data": 2},
            "offload of parameters needs sharded parameters",
        ),
        (
            {"offload": ["optimizer"], "parallelism__strategy": "fsdp", "parallelism__data": 2},
            "fsdp offloads parameters and optimizer states together",
        ),
        ({"quantization": "nf4"}, "nf4 weights have no gradients"),
        ({"mode": "inference", "batch__gradient_accumulation_steps": 2}, "batch.gradient_accumulation_steps is 2"),
        ({"optimizer__momentum": 0.9}, "optimizer.momentum belongs to sgd and rmsprop, not to adamw"),
        (
            {"optimizer__name": "adamw-8bit", "optimizer__state_dtype": "bfloat16"},
            "optimizer.state_dtype is bfloat16, but adamw-8bit keeps 8-bit states",
        ),
        (
            {"optimizer__name": "torchao-adamw-4bit", "optimizer__state_dtype": "bfloat16"},
            "optimizer.state_dtype is bfloat16, but torchao-adamw-4bit keeps 4-bit states",
        ),
        ({"attention": "flash-attn", "device": "cpu"}, "attention flash-attn has no CPU kernel"),
        ({"attention": "sdpa-flash", "precision": "fp32"}, "attention sdpa-flash takes 16-bit inputs only"),
        ({"task": "causal-lm", "batch__target_length": 8}, "batch.target_length belongs to task seq2seq-lm"),
        (
            {"batch__sequence_length": 2049, "parallelism__context": 2},
            "batch.sequence_length 2049 does not divide by parallelism.context 2",
        ),
    ],
)
def test_a_contradiction_is_one_config_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(scenario(**fields))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mode": "inference", "quantization": "nf4"},
        {"mode": "inference", "adapter__rank": 8},
        {"quantization": "nf4", "adapter__rank": 8},
        {"parallelism__strategy": "zero2", "offload": ["optimizer"]},
        {"parallelism__strategy": "hsdp", "parallelism__data": 4, "parallelism__replicate": 2},
        {"parallelism__strategy": "fsdp", "parallelism__data": 4, "offload": ["optimizer", "parameters"]},
        {"attention": "sdpa-flash", "precision": "fp32", "device": "cpu"},
        {"attention": "sdpa-efficient", "precision": "fp32"},
        {"precision": "fp16"},
        {"optimizer__name": "sgd", "optimizer__momentum": 0.9},
        {"allocator__garbage_collection_threshold": 0.8, "allocator__max_split_size_mb": 20},
        {"software__torch": "2.13.0+cu130"},
    ],
)
def test_what_can_be_passes(fields: dict[str, Any]) -> None:
    check(scenario(**fields))


def test_settings_without_effect_become_warnings() -> None:
    assert without_effect(scenario()) == []
    assert without_effect(scenario(batch__new_tokens=5)) == ["batch.new_tokens has no effect in training"]
    ignored = without_effect(scenario(mode="inference", checkpointing="full", loss="fused", loop__clip_grad_norm=1.0))
    assert ignored == [
        f"{field} has no effect in inference" for field in ("checkpointing", "loss", "loop.clip_grad_norm")
    ]


def test_every_ranged_field_exists() -> None:
    optional = [("checkpointing.every", 1), ("adapter.rank", 1), ("parallelism.zero.sub_group_size", 1)]
    everything = decode(lay_over({"model": "gpt2"}, optional))
    for dotted in RANGES:
        part: object = everything
        for name in dotted.split("."):
            part = getattr(part, name)


@given(st.dictionaries(st.sampled_from(sorted(RANGES)), st.integers() | st.floats(), max_size=3))
def test_any_numbers_pass_or_are_one_config_error(values: dict[str, float]) -> None:
    with suppress(ConfigError):
        check(decode(lay_over({"model": "gpt2"}, values.items())))

"""A Scenario: everything that decides a step's memory, in the names that scenario files and flags use.

Validation of single values happens here, where data enters, naming the dotted field; what two fields together allow is
in ``memprof.model.consistency``.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Mode = Literal["train", "inference"]
Task = Literal[
    "causal-lm", "masked-lm", "sequence-classification", "token-classification", "seq2seq-lm",
    "image-classification", "dpo", "ppo", "grpo", "reward", "custom",
]  # fmt: skip
Precision = Literal["fp32", "bf16", "fp16", "bf16-mixed", "fp16-mixed"]
Attention = Literal["sdpa", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "sdpa-math", "flash-attn", "eager"]
Loss = Literal["full", "chunked", "fused"]
Implementation = Literal["auto", "fused", "foreach", "for-loop"]
OptimizerName = Literal[
    "adamw", "adam", "sgd", "lion", "adafactor", "adagrad", "rmsprop",
    "adamw-8bit", "lion-8bit", "paged-adamw", "paged-lion", "paged-adamw-8bit", "paged-lion-8bit",
    "torchao-adamw-8bit", "torchao-adamw-4bit",
]  # fmt: skip
Quantization = Literal["int8", "nf4", "nf4-double", "fp4"]
Strategy = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp", "hsdp"]


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the scenario's parts: frozen, keyword-only, unknown fields refused."""


class Batch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shapes of one micro-batch: counts of sequences, tokens and pixels."""

    micro_batch_size: int = 1
    sequence_length: int | None = None  # None: 2048, or the model's positions where that is less
    target_length: int | None = None
    gradient_accumulation_steps: int = 1
    image_size: int | None = None
    new_tokens: int | None = None


class Optimizer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: OptimizerName = "adamw"
    implementation: Implementation = "auto"
    momentum: float | None = None
    weight_decay: float | None = None
    state_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    master_weights: bool | None = None


class SelectiveCheckpointing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    every: int


class Adapter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["lora"] = "lora"
    rank: int = 16
    target_modules: tuple[str, ...] | None = None  # None: PEFT's default for the architecture
    dropout: float = 0.0


class Zero(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``zero_optimization`` of a DeepSpeed config, by its names without ``stage3_``; counts of elements.

    Stages 1 and 2 know ``reduce_bucket_size`` and ``overlap_comm`` alone, of which None means True at stage 3. ``auto``
    is what transformers makes of it, from the model's hidden size.
    Source: DeepSpeed 0.19.8: deepspeed/runtime/zero/config.py (its docs page shows other figures for persistence and
    sub-groups; the code decides).
    """

    reduce_bucket_size: int | Literal["auto"] = 500_000_000
    overlap_comm: bool | None = None
    sub_group_size: int = 1_000_000_000
    prefetch_bucket_size: int | Literal["auto"] = 50_000_000
    param_persistence_threshold: int | Literal["auto"] = 100_000
    max_live_parameters: int = 1_000_000_000
    max_reuse_distance: int = 1_000_000_000


class Parallelism(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    strategy: Strategy = "none"
    data: int = 1
    replicate: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    zero: Zero | None = None  # None: DeepSpeed's defaults


class Compile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    dynamic: bool = False


class Loop(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    zero_grad: Literal["after_step", "start"] = "after_step"
    keep_outputs: bool = False
    clip_grad_norm: float | None = None
    dropout: float | None = None  # None: the model's own rates


class Allocator(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of PyTorch's caching allocator, as in ``PYTORCH_ALLOC_CONF``."""

    expandable_segments: bool = False
    max_split_size_mb: int | None = None
    roundup_power2_divisions: int | None = None
    garbage_collection_threshold: float | None = None
    large_segment_size_mb: int | None = None


class Software(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    torch: str | None = None
    transformers: str | None = None


class Scenario(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training or inference step to be answered; ``model`` is the only field without a default."""

    model: str
    task: Task | None = None
    mode: Mode = "train"
    batch: Batch = Batch()
    precision: Precision = "bf16-mixed"
    attention: Attention = "sdpa"
    loss: Loss = "full"
    optimizer: Optimizer = Optimizer()
    checkpointing: Literal["none", "full", "selective"] | SelectiveCheckpointing = "none"
    adapter: Adapter | None = None
    quantization: Quantization | None = None
    parallelism: Parallelism = Parallelism()
    offload: tuple[Literal["optimizer", "parameters"], ...] = ()
    compile: Compile | None = None
    loop: Loop = Loop()
    device: str = "h100-80gb"
    allocator: Allocator = Allocator()
    software: Software = Software()
    seed: int = 0


def to_builtins(scenario: Scenario) -> dict[str, Any]:
    """The scenario as plain dicts and lists, every default spelled out."""
    out: dict[str, Any] = msgspec.to_builtins(scenario)
    return out

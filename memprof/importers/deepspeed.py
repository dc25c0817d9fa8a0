"""A DeepSpeed config (JSON), ``"auto"`` resolved as transformers resolves it: from the training arguments.

Sizes of ZeRO's buffers that are "auto" stay so in the scenario, until the model is known.
Source: DeepSpeed 0.19: runtime/zero/config.py, runtime/config.py; transformers 5.23: integrations/deepspeed.py.
"""

from __future__ import annotations

from memprof.importers.reader import Reader

AUTO = "auto"
STRATEGY = "parallelism.strategy"
_STAGES = {"1": "zero1", "2": "zero2", "3": "zero3"}
_OPTIMIZERS = {name: name for name in ("adam", "adamw", "lion", "adagrad", "sgd", "rmsprop")}
"""Source: runtime/engine.py, ``_configure_basic_optimizer``; names that it does not know are torch.optim's."""
_SIZES = ("reduce_bucket_size",)
_STAGE_3_SIZES = (
    "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "stage3_max_live_parameters",
    "stage3_max_reuse_distance", "sub_group_size",
)  # fmt: skip
_RESOLVED = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
"""Those that transformers finds a number for where they are "auto"; DeepSpeed reads its default for the others."""
_TRAINER = 'TrainingArguments\' default, for an "auto" that no file resolves (transformers 5.23: training_args.py)'
_TYPES = (
    ("amp",), ("torch_autocast",), ("data_types",), ("communication_data_type",),
    ("bf16", "bf16_master_weights_and_grads"), ("bf16", "bf16_optimizer_states"),
    ("fp16", "fp16_master_weights_and_grads"), ("fp16", "auto_cast"),
)  # fmt: skip
_VARIANTS = (
    "zero_quantized_weights", "zero_quantized_gradients", "zero_quantized_nontrainable_weights", "zenflow",
)  # fmt: skip


def read(reader: Reader) -> None:
    """Maps the whole file."""
    _batch(reader)
    _precision(reader)
    _zero(reader)
    _optimizer(reader)
    for keys in _TYPES:
        if reader.get(*keys) not in (None, False):
            reader.warn("this changes types in ways that are not modelled", *keys, field="precision")
    for name in ("partition_activations", "cpu_checkpointing"):
        if reader.flag("activation_checkpointing", name):
            reader.warn(
                "takes effect through deepspeed.checkpointing alone, and is left out", "activation_checkpointing", name
            )
    if (reader.whole("sequence_parallel_size") or 1) > 1:
        reader.refuse("parallelism.context", "sequence parallelism is not modelled", "sequence_parallel_size")
    tensor = reader.whole("tensor_parallel", "autotp_size")
    if tensor is not None:
        reader.set("parallelism.tensor", tensor, "tensor_parallel", "autotp_size")


def _is_auto(reader: Reader, *keys: str) -> bool:
    return bool(reader.get(*keys) == AUTO)


def _batch(reader: Reader) -> None:
    for key, field, default in (
        ("train_batch_size", "global_batch", None),
        ("train_micro_batch_size_per_gpu", "batch.micro_batch_size", 8),
        ("gradient_accumulation_steps", "batch.gradient_accumulation_steps", 1),
    ):
        if not _is_auto(reader, key):
            if (count := reader.whole(key)) is not None:
                reader.set(field, count, key)
        elif default is not None:
            reader.assume(field, default, _TRAINER)
    if _is_auto(reader, "gradient_clipping"):
        reader.assume("loop.clip_grad_norm", 1.0, _TRAINER)
    elif norm := reader.number("gradient_clipping"):
        reader.set("loop.clip_grad_norm", norm, "gradient_clipping")


def _precision(reader: Reader) -> None:
    for section, mixed in (("bf16", "bf16"), ("bfloat16", "bf16"), ("fp16", "fp16")):
        if _is_auto(reader, section, "enabled"):
            reader.assume("mixed", "no", _TRAINER)
        elif reader.flag(section, "enabled"):
            reader.set("mixed", mixed, section, "enabled")


def _zero(reader: Reader) -> None:
    zero = "zero_optimization"
    stage = reader.text(zero, "stage") or "0"
    if stage in _STAGES:
        reader.set(STRATEGY, _STAGES[stage], zero, "stage")
    elif stage == "0":
        reader.refuse(STRATEGY, "ZeRO stage 0 is not modelled", zero)
    else:
        raise reader.error("must be 0, 1, 2 or 3", zero, "stage")
    for key, part in (("offload_optimizer", "optimizer"), ("offload_param", "parameters")):
        device = reader.text(zero, key, "device")
        if device not in (None, "none"):
            reader.set(f"offload.{part}", True, zero, key, "device")
    if reader.flag(zero, "cpu_offload"):
        reader.set("offload.optimizer", True, zero, "cpu_offload")
    for key in _VARIANTS:
        if reader.get(zero, key) not in (None, False):
            _unmodelled(reader, zero, key)
    for key in ("zero_hpz_partition_size", "mics_shard_size"):
        if (reader.whole(zero, key) or 0) > 1:
            _unmodelled(reader, zero, key)
    if stage in _STAGES:
        _buffers(reader, stage)


def _buffers(reader: Reader, stage: str) -> None:
    """Sizes of ZeRO's buffers, of which those named ``stage3_`` go by their short names too."""
    zero = "zero_optimization"
    for key in (*_SIZES, *(_STAGE_3_SIZES if stage == "3" else ())):
        short = key.removeprefix("stage3_")
        for name in dict.fromkeys((key, short)):
            if not _is_auto(reader, zero, name):
                if (size := reader.whole(zero, name)) is not None:
                    reader.set(f"parallelism.zero.{short}", size, zero, name)
            elif name in _RESOLVED:
                reader.set(f"parallelism.zero.{short}", AUTO, zero, name)
    overlap = None if _is_auto(reader, zero, "overlap_comm") else reader.flag(zero, "overlap_comm")
    if overlap is not None:
        reader.set("parallelism.zero.overlap_comm", overlap, zero, "overlap_comm")


def _unmodelled(reader: Reader, *keys: str) -> None:
    reader.refuse(STRATEGY, "this variant of ZeRO is not modelled", *keys)


def _optimizer(reader: Reader) -> None:
    """Its own fused Adam, unless ``torch_adam``; Adam decays as AdamW does, unless ``adam_w_mode`` is false."""
    kind = reader.text("optimizer", "type")
    if kind is None:
        return
    name = _OPTIMIZERS.get(kind.lower())
    if name is None:
        reader.refuse("optimizer.name", "the estimate does not know this optimizer", "optimizer", "type")
        return
    adam = name in ("adam", "adamw")
    if adam and reader.flag("optimizer", "params", "adam_w_mode") is not False:
        name = "adamw"
    torch_adam = reader.flag("optimizer", "params", "torch_adam")
    reader.set("optimizer.name", name, "optimizer", "type")
    form = "foreach" if torch_adam else "fused"
    reader.set("optimizer.implementation", form if adam else "auto", "optimizer", "type")
    decay = ("optimizer", "params", "weight_decay")
    if not _is_auto(reader, *decay) and (rate := reader.number(*decay)) is not None:
        reader.set("optimizer.weight_decay", rate, *decay)

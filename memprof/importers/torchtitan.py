"""A job config of torchtitan (TOML), as its releases up to 0.2 read it.

Source: torchtitan 0.2.2: config/job_config.py, models/*/__init__.py (flavors), distributed/utils.py (autocast where
nothing is sharded), train.py.
"""

from __future__ import annotations

from memprof.importers.reader import Reader

SOURCE = "torchtitan 0.2.2: config/job_config.py"
_MODELS = {
    "llama3": {"8b": "llama-3.1-8b", "70b": "llama-3.1-70b", "405b": "llama-3.1-405b"},
    "qwen3": {size: f"qwen3-{size}" for size in ("0.6b", "1.7b", "4b", "8b", "14b", "32b")},
}
_OPTIMIZERS = {"adam": "adam", "adamw": "adamw"}
_DEGREES = {
    "tensor_parallel_degree": "tensor",
    "pipeline_parallel_degree": "pipeline",
    "context_parallel_degree": "context",
    "expert_parallel_degree": "expert",
}


def read(reader: Reader) -> None:
    """Maps the whole file."""
    _model(reader)
    _training(reader)
    _optimizer(reader)
    _parallelism(reader)
    _checkpointing(reader)
    for keys in (("compile", "enable"), ("training", "compile")):
        if reader.flag(*keys):
            reader.set("compile.mode", "default", *keys)
    for converter in reader.words("model", "converters") or ():
        reader.refuse("precision", f"{converter} is not modelled", "model", "converters")


def _model(reader: Reader) -> None:
    """The model code of torchtitan is taken for transformers' of the same dimensions."""
    name, flavor = reader.text("model", "name") or "llama3", reader.text("model", "flavor") or "debugmodel"
    model = _MODELS.get(name.lower(), {}).get(flavor.lower())
    key = "flavor" if reader.has("model", "flavor") else "name"
    if model is None:
        reader.refuse("model", f"{name} {flavor} has no counterpart here", "model", key)
        return
    reader.set("model", model, "model", key)
    reader.warn("torchtitan's own model code is estimated as that of transformers", "model", key, field="model")


def _training(reader: Reader) -> None:
    table = "training"
    # Until 0.1 it was called batch_size.
    micro = "local_batch_size" if reader.has(table, "local_batch_size") else "batch_size"
    for key, field, default in ((micro, "micro_batch_size", 8), ("seq_len", "sequence_length", 2048)):
        reader.take(f"batch.{field}", reader.whole(table, key), table, key, default=default, source=SOURCE)
    whole = reader.whole(table, "global_batch_size")
    if whole is not None and whole > 0:
        reader.set("global_batch", whole, table, "global_batch_size")
    norm = reader.number(table, "max_norm")
    reader.take("loop.clip_grad_norm", norm, table, "max_norm", default=1.0, source=SOURCE)
    weights = reader.text(table, "dtype")
    reader.take("weights", weights, table, "dtype", default="float32", source=SOURCE)
    param = reader.text(table, "mixed_precision_param")
    mixed = {None: None, "bfloat16": "bf16", "float32": "no"}.get(param)
    if param is not None and mixed is None:
        raise reader.error("must be bfloat16 or float32", table, "mixed_precision_param")
    if weights == "bfloat16" and mixed in (None, "bf16"):
        mixed = "no"
    reader.take("mixed", mixed, table, "mixed_precision_param", default="bf16", source=SOURCE)
    reader.text(table, "mixed_precision_reduce")
    if reader.flag(table, "enable_cpu_offload"):
        reader.set("offload.optimizer", True, table, "enable_cpu_offload")
        reader.set("offload.parameters", True, table, "enable_cpu_offload")


def _optimizer(reader: Reader) -> None:
    table = "optimizer"
    name = reader.text(table, "name")
    if name is not None and name.lower() not in _OPTIMIZERS:
        reader.refuse("optimizer.name", "the estimate does not know this optimizer", table, "name")
    else:
        known = name and _OPTIMIZERS[name.lower()]
        reader.take("optimizer.name", known, table, "name", default="adamw", source=SOURCE)
    for key, default in (("implementation", "fused"), ("weight_decay", 0.1)):
        value = reader.text(table, key) if key == "implementation" else reader.number(table, key)
        reader.take(f"optimizer.{key}", value, table, key, default=default, source=SOURCE)
    if reader.flag(table, "early_step_in_backward"):
        reader.refuse("optimizer.name", "stepping in backward is not modelled", table, "early_step_in_backward")


def _parallelism(reader: Reader) -> None:
    """``data_parallel_shard_degree`` -1, the default, is all GPUs that are left: their number is the launcher's."""
    table = "parallelism"
    for key, degree in _DEGREES.items():
        if (size := reader.whole(table, key)) is not None:
            reader.set(f"parallelism.{degree}", size, table, key)
    replicate = reader.whole(table, "data_parallel_replicate_degree") or 1
    shard = reader.whole(table, "data_parallel_shard_degree")
    shards = shard is None or shard != 1
    strategy = ("hsdp" if shards else "ddp") if replicate > 1 else ("fsdp" if shards else "none")
    said = "data_parallel_shard_degree" if shard is not None else "data_parallel_replicate_degree"
    if shard is None and replicate == 1:
        reader.assume("parallelism.strategy", "fsdp", SOURCE)
    else:
        reader.set("parallelism.strategy", strategy, table, said)
    if strategy == "hsdp":
        reader.set("parallelism.replicate", replicate, table, "data_parallel_replicate_degree")
    if shard is not None and shard > 1:
        reader.set("parallelism.data", shard, table, said)
    elif strategy == "ddp":
        reader.set("parallelism.data", replicate, table, "data_parallel_replicate_degree")
    policy = reader.text(table, "fsdp_reshard_after_forward")
    if policy == "never":
        reader.refuse(
            "parallelism.strategy",
            "weights kept whole from forward to backward are not modelled",
            table,
            "fsdp_reshard_after_forward",
        )


def _checkpointing(reader: Reader) -> None:
    """``selective`` with a number is every so many layers, with ``op`` by operator."""
    table = "activation_checkpoint"
    mode, option = reader.text(table, "mode"), reader.text(table, "selective_ac_option") or "2"
    if mode in ("full", "none"):
        reader.set("checkpointing", mode, table, "mode")
    elif mode in (None, "selective"):
        how = {"every": int(option)} if option.isdecimal() and option.isascii() else "selective"
        reader.take("checkpointing", mode and how, table, "mode", default=how, source=SOURCE)
    else:
        reader.refuse("checkpointing", "this kind of checkpointing is not modelled", table, "mode")

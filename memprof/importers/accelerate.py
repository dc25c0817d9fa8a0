"""A config of ``accelerate launch`` (YAML or JSON): how many GPUs, what they share, in which precision.

Source: accelerate 1.15: commands/config/config_args.py (``ClusterConfig``), commands/launch.py, utils/launch.py.
"""

from __future__ import annotations

from memprof.errors import UnsupportedError
from memprof.importers.huggingface import Fsdp, fsdp
from memprof.importers.reader import Reader

STRATEGY = "parallelism.strategy"
_FSDP = Fsdp(version=1, offload="offload_params")
_PRECISIONS = {"no": "no", "bf16": "bf16", "fp16": "fp16", "fp8": "fp8"}
_ZERO2 = "accelerate's ZeRO stage where none is said: utils/dataclasses.py, DeepSpeedPlugin (accelerate 1.15)"
_DEGREES = {
    "dp_replicate_size": "parallelism.replicate",
    "tp_size": "parallelism.tensor",
    "cp_size": "parallelism.context",
}
_DEEPSPEED_FIELDS = {
    "offload_optimizer_device": "offload.optimizer",
    "offload_param_device": "offload.parameters",
}


def read(reader: Reader) -> None:
    """Maps the whole file.

    Raises:
        UnsupportedError: Megatron-LM, a TPU, an NPU or what else is no GPU under PyTorch.
    """
    kind = (reader.text("distributed_type") or "NO").upper()
    reader.get("compute_environment")
    _world(reader, kind)
    _mixed(reader)
    if kind == "DEEPSPEED":
        _deepspeed(reader)
    elif kind == "FSDP":
        fsdp(reader, ("fsdp_config",), _FSDP, "distributed_type")
        if _is_hybrid(reader):
            reader.set("parallelism.replicate", reader.whole("num_machines") or 1, "num_machines")
    elif kind not in ("NO", "MULTI_GPU", "MULTI_CPU"):
        raise UnsupportedError(
            f"{reader.where('distributed_type')}: distributed_type {kind} is not modelled",
            "it has to be MULTI_GPU, FSDP or DEEPSPEED",
        )
    for key, field in _DEGREES.items():
        for name in (f"parallelism_config_{key}", key):
            degree = reader.whole("parallelism_config", name)
            if degree is not None:
                reader.set(field, degree, "parallelism_config", name)
    for key in ("parallelism_config_sp_size", "sp_size"):
        if (reader.whole("parallelism_config", key) or 1) > 1:
            reader.refuse("parallelism.context", "sequence parallelism is not modelled", "parallelism_config", key)
    if reader.flag("use_cpu") or kind == "MULTI_CPU":
        reader.set("device", "cpu", "use_cpu" if reader.has("use_cpu") else "distributed_type")
    backend = (reader.text("dynamo_config", "dynamo_backend") or "no").lower()
    if backend != "no":
        mode = reader.text("dynamo_config", "dynamo_mode") or "default"
        reader.set("compile.mode", mode, "dynamo_config", "dynamo_backend")


def _is_hybrid(reader: Reader) -> bool:
    """Shards within a machine, replicas over machines."""
    how = (reader.get("fsdp_config", f"fsdp_{name}") for name in ("sharding_strategy", "reshard_after_forward"))
    return any(str(word).upper() in ("HYBRID_SHARD", "4") for word in how)


def _world(reader: Reader, kind: str) -> None:
    world = reader.whole("num_processes")
    if world is not None and world > 0:
        reader.set("world", world, "num_processes")
    elif kind == "NO":
        reader.assume("world", 1, "one process where distributed_type is NO (accelerate 1.15: config_args.py)")


def _mixed(reader: Reader) -> None:
    mixed = reader.choice(_PRECISIONS, "mixed_precision")
    if mixed == "fp8":
        reader.refuse("precision", "fp8 is not modelled", "mixed_precision")
        mixed = "bf16"
    source = "accelerate's mixed precision where none is said: commands/launch.py (accelerate 1.15)"
    if mixed == "no" or mixed is None:
        reader.assume("mixed", "no", source)
    else:
        reader.set("mixed", mixed, "mixed_precision")


def _deepspeed(reader: Reader) -> None:
    """The plugin's own settings; with a config file only that counts, and ``detect`` reads it."""
    section = "deepspeed_config"
    if reader.has(section, "deepspeed_config_file"):
        return
    stage = reader.whole(section, "zero_stage")
    if stage in (1, 2, 3):
        reader.set(STRATEGY, f"zero{stage}", section, "zero_stage")
    elif stage is None:
        reader.assume(STRATEGY, "zero2", _ZERO2)
    else:
        reader.refuse(STRATEGY, "ZeRO stage 0 is not modelled", section, "zero_stage")
    steps, norm = "gradient_accumulation_steps", "gradient_clipping"
    if reader.text(section, steps) not in (None, "auto"):
        reader.set(f"batch.{steps}", reader.whole(section, steps), section, steps)
    if reader.text(section, norm) not in (None, "auto"):
        reader.set("loop.clip_grad_norm", reader.number(section, norm), section, norm)
    for key, field in _DEEPSPEED_FIELDS.items():
        if reader.text(section, key) not in (None, "none"):
            reader.set(field, True, section, key)

"""A training config of LLaMA-Factory's v1 (YAML): keys of its own, and a mapping with a name for each plugin.

What is trained in full is float32, and bf16 takes effect through FSDP2 alone: there is no autocast without it. The
command line says whether the config is for SFT, DPO or a reward model.

Source: https://github.com/hiyouga/LLaMA-Factory/tree/main/src/llamafactory/v1 (0.9.6.dev0):
config/{model,data,training}_args.py, core/{base_trainer,model_engine}.py, core/utils/batching.py, launcher.py,
accelerator/interface.py, plugins/.
"""

from __future__ import annotations

from memprof.importers import huggingface
from memprof.importers.llama_factory import exports
from memprof.importers.reader import Reader

SOURCE = "llamafactory 0.9.6.dev0: v1/"
_CONFIG = f"{SOURCE}config/"
_TRAINER = f"{SOURCE}core/base_trainer.py"
_ENGINE = f"{SOURCE}core/model_engine.py"
_STRATEGY = "parallelism.strategy"
_PREFERENCES = ("pref_loss", "pref_beta", "pref_ftx", "simpo_gamma", "dpo_label_smoothing", "ld_alpha")
_BATCHING = {"normal": None, "padding_free": "packed", "dynamic_batching": "dynamic", "dynamic_padding_free": "packed"}
_PACKED = "sequences in one row are estimated as rows of the full length"
_DYNAMIC = "a micro-batch has as many sequences as its tokens allow, and is estimated with as many of the full length"


def read(reader: Reader) -> None:
    """Maps the whole file.

    Raises:
        ConfigError: the library would refuse it, or it trains nothing.
    """
    model = reader.text("model")
    reader.take("model", model, "model", default="Qwen/Qwen3-4B-Instruct-2507", source=_CONFIG)
    _task(reader)
    backend = _plugin(reader, "dist_config", ("fsdp2", "fsdpturbo", "deepspeed"))
    _batch(reader, backend)
    _sharding(reader, backend)
    tuned = _plugin(reader, "peft_config", ("lora", "freeze"))
    _weights(reader, backend, tuned)
    _adapter(reader, tuned)
    _quantization(reader)
    _optimizer(reader)
    checkpointed = reader.flag("enable_activation_checkpointing")
    how = None if checkpointed is None else "full" if checkpointed else "none"
    reader.take("checkpointing", how, "enable_activation_checkpointing", default="full", source=_CONFIG)
    huggingface.attention(reader, "flash_attn")
    if not reader.has("flash_attn"):
        reader.assume("attention", "sdpa", _CONFIG)
    _kernels(reader)
    reader.warn("the trainer copies the float32 logits to shift them, which the estimate leaves out", field="loss")


def _plugin(reader: Reader, section: str, names: tuple[str, ...]) -> str | None:
    """The name in a plugin's mapping.

    Raises:
        ConfigError: it has none, or one that the library does not know.
    """
    name: str | None = reader.choice(dict(zip(names, names, strict=True)), section, "name")
    if name is None and reader.has(section):
        raise reader.error("must have a name", section)
    return name


def _task(reader: Reader) -> None:
    reader.assume("task", "causal-lm", f"{SOURCE}launcher.py: the command line says sft, dpo or rm, and not the file")
    for key in _PREFERENCES:
        if reader.get(key) is not None:
            reader.refuse("task", "training by preference or reward is not modelled", key)
    if reader.choice({"llm": True, "cls": False, "other": False}, "model_class") is False:
        reader.refuse("task", "only a causal language model is estimated from here", "model_class")
    if reader.get("peft_config", "export_dir") and not reader.has("train_dataset"):
        raise exports(reader, "peft_config", "export_dir")


def _batch(reader: Reader, backend: str | None) -> None:
    """Micro-batches of a step come from ``global_batch_size``; DeepSpeed's config alone says how it clips."""
    micro, length = "micro_batch_size", "cutoff_len"
    reader.take(f"batch.{micro}", reader.whole(micro), micro, default=1, source=_CONFIG)
    reader.take("batch.sequence_length", reader.whole(length), length, default=2048, source=_CONFIG)
    steps = "batch.gradient_accumulation_steps"
    if (whole := reader.whole("global_batch_size")) is not None:
        reader.set("global_batch", whole, "global_batch_size")
        if not reader.has("dp_size") and not reader.has("mp_shard_size"):
            reader.warn(
                "no file says over how many GPUs; the estimate has one micro-batch in a step, unless --accumulate is"
                " set",
                "global_batch_size",
                field=steps,
            )
    else:
        reader.assume(steps, 1, _CONFIG)
    if backend != "deepspeed":
        norm = reader.number("max_grad_norm")
        reader.take("loop.clip_grad_norm", norm, "max_grad_norm", default=1.0, source=_CONFIG)
    packed = reader.choice(_BATCHING, "batching_strategy")
    if packed is not None:
        reader.warn(_PACKED if packed == "packed" else _DYNAMIC, "batching_strategy")


def _sharding(reader: Reader, backend: str | None) -> None:
    """GPUs are data x context, and shards x replicas of them, which FSDP2 alone has.

    Raises:
        ConfigError: DeepSpeed has no config.
    """
    section = "dist_config"
    context = reader.whole("cp_size")
    if context is not None:
        reader.set("parallelism.context", context, "cp_size")
    if (size := reader.whole("dp_size")) is not None:
        reader.set("world", size * (context or 1), "dp_size")
    if backend == "deepspeed" and not reader.has(section, "config_file"):
        raise reader.error("must have a config_file for deepspeed", section)
    if backend not in ("fsdp2", "fsdpturbo"):
        return
    reader.set(_STRATEGY, "fsdp", section, "name")
    replicas = reader.whole("mp_replicate_size")
    if replicas is not None:
        reader.set("parallelism.replicate", replicas, "mp_replicate_size")
    if (shards := reader.whole("mp_shard_size")) is not None:
        reader.set("world", shards * (replicas or 1), "mp_shard_size")
    if reader.flag(section, "reshard_after_forward") is False:
        why = "weights kept whole from forward to backward are not modelled"
        reader.refuse(_STRATEGY, why, section, "reshard_after_forward")
    if reader.flag(section, "offload_params"):
        for part in ("parameters", "optimizer"):
            reader.set(f"offload.{part}", True, section, "offload_params")
    if (experts := reader.whole(section, "ep_size")) is not None:
        reader.set("parallelism.expert", experts, section, "ep_size")


def _weights(reader: Reader, backend: str | None, tuned: str | None) -> None:
    """A model that is trained in full is float32; frozen weights keep the checkpoint's type.

    FSDP2 gathers in bfloat16 and reduces in float32; DeepSpeed takes bf16 from its own config, where "auto" means true.
    Source: core/model_engine.py (``_init_model``), plugins/trainer_plugins/distributed/fsdp2.py (``get_mp_policy``),
    plugins/model_plugins/deepspeed_utils.py (``infer_deepspeed_mixed_precision``).
    """
    if backend == "deepspeed":
        reader.assume("mixed", "bf16", f"{SOURCE}plugins/model_plugins/deepspeed_utils.py")
        return
    bf16 = reader.flag("bf16")
    if tuned is not None:
        reader.assume("mixed", "no", _TRAINER)
        reader.assume("weights", "bfloat16", f"{_ENGINE} keeps the checkpoint's type, often bfloat16")
        if backend is not None and bf16 is False:
            reader.warn("weights gathered in float32 are estimated in the checkpoint's type", "bf16", field="precision")
        return
    reader.assume("weights", "float32", _ENGINE)
    if backend is None:
        reader.assume("mixed", "no", _TRAINER)
        if bf16:
            reader.warn("takes effect under fsdp2 alone; the estimate has float32", "bf16", field="precision")
    else:
        mixed = None if bf16 is None else "bf16" if bf16 else "no"
        reader.take("mixed", mixed, "bf16", default="bf16", source=_CONFIG)


def _adapter(reader: Reader, tuned: str | None) -> None:
    section, source = "peft_config", f"{SOURCE}plugins/model_plugins/peft.py"
    if tuned == "freeze":
        reader.refuse("adapter", "training a part of the weights is not modelled", section, "name")
    if tuned != "lora":
        return
    reader.take("adapter.rank", reader.whole(section, "r"), section, "r", default=8, source=source)
    dropout = reader.number(section, "lora_dropout")
    reader.take("adapter.dropout", dropout, section, "lora_dropout", default=0.05, source=source)
    targets = reader.words(section, "target_modules")
    named = ["all-linear"] if targets == ["all"] else targets
    reader.take("adapter.target_modules", named, section, "target_modules", default=["all-linear"], source=source)
    for key in ("modules_to_save", "use_dora"):
        if reader.get(section, key) not in (None, False):
            reader.refuse("adapter", "these trainable parameters are not modelled", section, key)
    if reader.get(section, "adapter_name_or_path") is not None:
        reader.warn("the rank of this adapter, which goes on being trained, is not read", section, field="adapter.rank")


def _quantization(reader: Reader) -> None:
    """4 or 8 bits of bitsandbytes; ``auto`` without a number of bits leaves the weights as they are.

    Source: plugins/model_plugins/quantization.py.
    """
    section = "quant_config"
    name = _plugin(reader, section, ("auto", "bnb"))
    bits = reader.whole(section, "quantization_bit") or (4 if name == "bnb" else None)
    if name is None or bits is None:
        return
    if bits not in (4, 8):
        raise reader.error("must be 4 or 8", section, "quantization_bit")
    if bits == 8:
        reader.set("quantization", "int8", section, "quantization_bit")
        return
    double = reader.flag(section, "double_quantization") is not False
    kind = reader.text(section, "quantization_type") or "nf4"
    huggingface.four_bit(reader, kind, double, section, "quantization_bit")
    if (reader.text(section, "compute_dtype") or "float16") != "bfloat16":
        reader.warn(
            "4-bit weights are multiplied in another type than the activations have (compute_dtype); the estimate has"
            " that of the activations",
            section,
            field="quantization",
        )


def _optimizer(reader: Reader) -> None:
    """AdamW of torch as it comes, unless a plugin makes another."""
    if reader.text("optim_config", "name") is not None:
        reader.refuse("optimizer.name", "the estimate does not know this optimizer", "optim_config", "name")
        return
    source = f"{_TRAINER}; torch 2.13: optim/adamw.py, on a GPU"
    for field, value in (("name", "adamw"), ("implementation", "foreach"), ("weight_decay", 0.01)):
        reader.assume(f"optimizer.{field}", value, source)


def _kernels(reader: Reader) -> None:
    """``auto`` has kernels for NPUs alone (plugins/model_plugins/kernels/interface.py)."""
    others = [name for name in reader.words("kernel_config", "name") or () if name != "auto"]
    if others:
        reader.warn("what these kernels save is left out, so the estimate is an upper bound", "kernel_config", "name")

"""A config of axolotl (YAML).

Source: axolotl 0.19: utils/schemas/{config,training,peft,model,fsdp,enums}.py, utils/config/__init__.py
(``resolve_dtype``), loaders/model.py.
"""

from __future__ import annotations

from memprof.importers import huggingface
from memprof.importers.huggingface import Fsdp
from memprof.importers.reader import Reader

SOURCE = "axolotl 0.19: utils/schemas/"
_FSDP = Fsdp(version=1, offload="offload_params")
_LEGACY_ATTENTION = {
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
    "flash_attention": "flash_attention_2",
    "flex_attention": "flex_attention",
    "xformers_attention": "xformers",
    "sage_attention": "sage",
}
_FUSED_LOSSES = ("cut_cross_entropy", "liger_fused_linear_cross_entropy")
_PLUGINS = ("integrations.liger.", "integrations.cut_cross_entropy.")
_KERNELS = (
    "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "tiled_mlp",
    "liger_rope", "liger_rms_norm", "liger_layer_norm", "liger_swiglu", "liger_glu_activation",
)  # fmt: skip
_DEGREES = {
    "dp_replicate_size": "replicate",
    "tensor_parallel_size": "tensor",
    "context_parallel_size": "context",
    "sequence_parallel_degree": "context",
    "expert_parallel_size": "expert",
}
_REFUSED = {
    "rl": ("training by preference or reward is not modelled", "task"),
    "unfrozen_parameters": ("a part of the weights being trained is not modelled", None),
    "fp8": ("fp8 is not modelled", "precision"),
    "qat": ("quantization-aware training is not modelled", None),
    "reward_model": ("reward modelling is not modelled", "task"),
    "process_reward_model": ("reward modelling is not modelled", "task"),
    "activation_offloading": ("offloaded activations are not modelled", "checkpointing"),
    "gptq": ("GPTQ weights are not modelled", "quantization"),
    "overrides_of_model_config": ("the model's own config is what is estimated", "model"),
    "overrides_of_model_kwargs": ("the model's own config is what is estimated", "model"),
    "relora": ("ReLoRA is not modelled", None),
    "peft_layer_replication": ("replicated layers are not modelled", None),
    "optimizer_in_backward": ("is not modelled", "optimizer.name"),
}


def read(reader: Reader) -> None:
    """Maps the whole file."""
    if name := reader.text("base_model"):
        reader.set("model", name, "base_model")
    _batch(reader)
    _precision(reader)
    _attention(reader)
    _checkpointing(reader)
    _adapter(reader)
    huggingface.optimizer(reader, "optimizer", SOURCE)
    huggingface.clip(reader, "max_grad_norm", "axolotl leaves it to transformers 5.23: training_args.py")
    reader.take("optimizer.weight_decay", reader.number("weight_decay"), "weight_decay", default=0.0, source=SOURCE)
    _loss(reader)
    _plugins(reader)
    _parallelism(reader)
    huggingface.compiled(reader, "torch_compile")
    for key, (why, field) in _REFUSED.items():
        if reader.get(key):
            reader.refuse(field, why, key)
    for key in _KERNELS:
        if reader.flag(key):
            reader.warn("what this kernel saves is left out, so the estimate is an upper bound", key)


def _batch(reader: Reader) -> None:
    for key, field, default in (
        ("micro_batch_size", "micro_batch_size", 1),
        ("gradient_accumulation_steps", "gradient_accumulation_steps", 1),
        ("sequence_len", "sequence_length", 512),
    ):
        reader.take(f"batch.{field}", reader.whole(key), key, default=default, source=SOURCE)
    if reader.flag("sample_packing"):
        reader.warn("packed sequences are estimated as rows of the full length", "sample_packing")


def _precision(reader: Reader) -> None:
    """``bf16`` (``auto``, the default: where the GPU can) or ``fp16`` is autocast; the weights are loaded in it too."""
    said, fp16 = reader.text("bf16"), reader.flag("fp16")
    word = (said or "auto").lower()
    bf16 = word == "full" or (not fp16 if word == "auto" else reader.flag("bf16"))
    key = "bf16" if bf16 or not fp16 else "fp16"
    mixed = key if bf16 or fp16 else "no"
    if said is None and key == "bf16":
        reader.assume("mixed", mixed, SOURCE)
        reader.assume("weights", "bfloat16", "axolotl 0.19: utils/config/__init__.py")
        return
    half = bool(fp16 or reader.flag("float16") or reader.flag("load_in_8bit"))
    reader.set("mixed", mixed, key)
    bfloat16 = bf16 or reader.flag("bfloat16")
    reader.set("weights", "bfloat16" if bfloat16 else "float16" if half else "float32", key)


def _attention(reader: Reader) -> None:
    huggingface.attention(reader, "attn_implementation")
    for key, implementation in _LEGACY_ATTENTION.items():
        if not reader.flag(key):
            continue
        if implementation in huggingface.ATTENTION:
            reader.set("attention", huggingface.ATTENTION[implementation], key)
        else:
            reader.refuse("attention", "the estimate does not know this attention", key)


def _checkpointing(reader: Reader) -> None:
    key = "gradient_checkpointing"
    if (reader.text(key) or "").lower().startswith("offload"):
        reader.refuse("checkpointing", "offloaded activations are not modelled", key)
        return
    on = reader.flag(key)
    if on is not None:
        reader.set("checkpointing", "full" if on else "none", key)
    elif not reader.has("fsdp_config", "activation_checkpointing"):
        reader.assume("checkpointing", "none", SOURCE)
    if reader.flag("gradient_checkpointing_kwargs", "use_reentrant"):
        reader.warn(
            "reentrant checkpointing is estimated as the other kind", "gradient_checkpointing_kwargs", "use_reentrant"
        )


def _adapter(reader: Reader) -> None:
    """LoRA and the weights it stands on; 4-bit weights are NF4 with double quantization (loaders/model.py)."""
    kind = reader.text("adapter")
    if kind is not None and kind not in ("lora", "qlora"):
        reader.refuse("adapter", "this adapter is not modelled", "adapter")
    elif kind is not None:
        rank = reader.whole("lora_r")
        reader.take("adapter.rank", rank, "lora_r", default=8, source="peft 0.21: tuners/lora/config.py, r")
        dropout = reader.number("lora_dropout")
        reader.take("adapter.dropout", dropout, "lora_dropout", default=0.0, source=SOURCE)
        targets = reader.words("lora_target_modules")
        if reader.flag("lora_target_linear"):
            reader.set("adapter.target_modules", ["all-linear"], "lora_target_linear")
        elif targets is not None:
            reader.set("adapter.target_modules", targets, "lora_target_modules")
        huggingface.lora_extras(
            reader,
            "lora_modules_to_save",
            "lora_target_parameters",
            "peft_use_dora",
            "lora_rank_pattern",
            "peft_trainable_token_indices",
            "peft_layers_to_transform",
        )
    if reader.flag("load_in_8bit"):
        reader.set("quantization", "int8", "load_in_8bit")
    if reader.flag("load_in_4bit"):
        kind = reader.text("bnb_config_kwargs", "bnb_4bit_quant_type") or "nf4"
        double = reader.flag("bnb_config_kwargs", "bnb_4bit_use_double_quant") is not False
        huggingface.four_bit(reader, kind, double, "load_in_4bit")


def _loss(reader: Reader) -> None:
    on = [key for key in _FUSED_LOSSES if reader.flag(key)]
    if on:
        reader.set("loss", "fused", on[0])
    elif reader.flag("liger_cross_entropy"):
        reader.refuse("loss", "Liger's loss over whole logits is not modelled", "liger_cross_entropy")
    elif reader.flag("chunked_cross_entropy"):
        reader.set("loss", "chunked", "chunked_cross_entropy")
        reader.warn("the logits of all its chunks are there at once, and are left out", "chunked_cross_entropy")
    elif any("cut_cross_entropy" in plugin for plugin in reader.words("plugins") or ()):
        reader.set("loss", "fused", "plugins")


def _plugins(reader: Reader) -> None:
    others = [name for name in reader.words("plugins") or () if not any(known in name for known in _PLUGINS)]
    if others:
        reader.warn(f"what {', '.join(others)} changes is not known", "plugins")


def _parallelism(reader: Reader) -> None:
    """The number of GPUs is the launcher's to say; the file says what they share."""
    if reader.has("fsdp_config") or reader.has("fsdp"):
        said = "fsdp_config" if reader.has("fsdp_config") else "fsdp"
        version = reader.whole("fsdp_version") or _FSDP.version
        huggingface.fsdp(reader, ("fsdp_config",), _FSDP._replace(version=version), said)
        reader.words("fsdp")
    for key, degree in _DEGREES.items():
        if (size := reader.whole(key)) is not None:
            reader.set(f"parallelism.{degree}", size, key)
    if (shards := reader.whole("dp_shard_size")) is not None:
        reader.set("parallelism.data", shards, "dp_shard_size")

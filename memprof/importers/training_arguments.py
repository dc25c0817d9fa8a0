"""``TrainingArguments`` of transformers and ``SFTConfig`` of TRL, as JSON or YAML, with TRL's ``ModelConfig`` beside.

Source: transformers 5.23: training_args.py; trl 1.16: trainer/{base,sft,model}_config.py, trainer/utils.py
(``create_model_from_path``: float32 where no dtype is said).
"""

from __future__ import annotations

from memprof.importers import huggingface
from memprof.importers.huggingface import Fsdp
from memprof.importers.reader import Reader

SOURCE = "transformers 5.23: training_args.py"
TRL = "trl 1.16: trainer/base_config.py, sft_config.py, utils.py"
_FSDP = Fsdp(version=2, offload="cpu_offload", wraps=True)
_PREFERENCES = ("beta", "max_prompt_length", "num_generations", "precompute_ref_log_probs", "ref_adapter_name")
_WARNED = {
    "label_smoothing_factor": None,
    "neftune_noise_alpha": None,
    "auto_find_batch_size": "batch.micro_batch_size",
    "torch_empty_cache_steps": None,
}
"""What is left out, and the field that says otherwise."""


def read(reader: Reader) -> None:
    """Maps the whole file, of either class."""
    sft = reader.kind == "sft"
    model(reader, sft)
    arguments(reader, sft)
    if sft:
        _sft(reader)
    else:
        _script(reader)
    for key in _PREFERENCES:
        if reader.get(key) is not None:
            reader.refuse("task", "training by preference or reward is not modelled", key)


def arguments(reader: Reader, sft: bool = False, checkpointing: bool = True) -> None:
    """The fields of ``TrainingArguments``, which LLaMA-Factory takes as well.

    Args:
        sft: whether the defaults are TRL's.
        checkpointing: whether activation checkpointing is asked for here, and not elsewhere.
    """
    micro = "per_device_train_batch_size"
    reader.take("batch.micro_batch_size", reader.whole(micro), micro, default=8, source=SOURCE)
    steps = "gradient_accumulation_steps"
    reader.take(f"batch.{steps}", reader.whole(steps), steps, default=1, source=SOURCE)
    huggingface.optimizer(reader, "optim", SOURCE)
    reader.take("optimizer.weight_decay", reader.number("weight_decay"), "weight_decay", default=0.0, source=SOURCE)
    huggingface.clip(reader, "max_grad_norm", SOURCE)
    _mixed(reader, sft)
    if checkpointing:
        _checkpointing(reader, sft)
    huggingface.compiled(reader, "torch_compile", "torch_compile_mode")
    if reader.flag("use_liger_kernel"):
        reader.set("loss", "fused", "use_liger_kernel")
    if reader.flag("use_cpu"):
        reader.set("device", "cpu", "use_cpu")
    _fsdp(reader)
    if reader.flag("accelerator_config", "split_batches"):
        reader.refuse(
            "batch.micro_batch_size",
            "a batch that is split over GPUs is not modelled",
            "accelerator_config",
            "split_batches",
        )
    for key, field in _WARNED.items():
        if reader.get(key):
            reader.warn("is not modelled", key, field=field)


def model(reader: Reader, sft: bool) -> None:
    """Model, its dtype, quantization and LoRA, as TRL's scripts take them from the same file."""
    if name := reader.text("model_name_or_path"):
        reader.set("model", name, "model_name_or_path")
    for keys in (("dtype",), ("torch_dtype",), ("model_init_kwargs", "dtype"), ("model_init_kwargs", "torch_dtype")):
        if word := reader.text(*keys):
            if weights := huggingface.dtype(word):
                reader.set("weights", weights, *keys)
            break
    else:
        if sft:
            reader.assume("weights", "float32", TRL)
    for keys in (("attn_implementation",), ("model_init_kwargs", "attn_implementation")):
        huggingface.attention(reader, *keys)
    if reader.flag("load_in_8bit"):
        reader.set("quantization", "int8", "load_in_8bit")
    if reader.flag("load_in_4bit"):
        kind, double = reader.text("bnb_4bit_quant_type") or "nf4", reader.flag("use_bnb_nested_quant") or False
        huggingface.four_bit(reader, kind.lower(), double, "load_in_4bit")
    if reader.flag("use_peft"):
        _lora(reader)


def _lora(reader: Reader) -> None:
    reader.take("adapter.rank", reader.whole("lora_r"), "lora_r", default=16, source="trl 1.16: model_config.py")
    dropout = reader.number("lora_dropout")
    reader.take("adapter.dropout", dropout, "lora_dropout", default=0.05, source="trl 1.16: model_config.py")
    if targets := reader.words("lora_target_modules"):
        reader.set("adapter.target_modules", targets, "lora_target_modules")
    huggingface.lora_extras(reader, "lora_modules_to_save", "lora_target_parameters", "use_dora")


def _mixed(reader: Reader, sft: bool) -> None:
    """``bf16`` and ``fp16``; left alone they leave the choice to accelerate's launcher, and in TRL mean bf16.

    Raises:
        ConfigError: both are set.
    """
    bf16, fp16 = reader.flag("bf16"), reader.flag("fp16")
    if bf16 and fp16:
        raise reader.error("and fp16 are both true, which transformers refuses", "bf16")
    if bf16 or fp16:
        reader.set("mixed", "bf16" if bf16 else "fp16", "bf16" if bf16 else "fp16")
    elif sft and bf16 is None:
        reader.assume("mixed", "bf16", TRL)
    else:
        reader.assume("mixed", "no", SOURCE)


def _checkpointing(reader: Reader, sft: bool) -> None:
    """``activation_checkpointing``, or the older name for it."""
    keys = [key for key in ("activation_checkpointing", "gradient_checkpointing") if reader.flag(key) is not None]
    if keys:
        reader.set("checkpointing", "full" if reader.flag(keys[0]) else "none", keys[0])
    elif not reader.has("fsdp_config", "activation_checkpointing"):
        reader.assume("checkpointing", "full" if sft else "none", TRL if sft else SOURCE)
    for key in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        if reader.flag(key, "use_reentrant"):
            reader.warn("reentrant checkpointing is estimated as the other kind", key, "use_reentrant")


def _fsdp(reader: Reader) -> None:
    """``fsdp`` is true, or words such as ``full_shard auto_wrap offload``."""
    words = " ".join(reader.words("fsdp") or ("false",)).lower().split()
    if words == ["false"]:
        return
    for word in words:
        if word == "offload":
            reader.set("offload.parameters", True, "fsdp")
            reader.set("offload.optimizer", True, "fsdp")
        elif word in ("shard_grad_op", "hybrid_shard", "hybrid_shard_zero2", "no_shard"):
            reader.refuse("parallelism.strategy", f"{word} is not modelled from here", "fsdp")
    if isinstance(reader.get("fsdp_config"), str):
        reader.refuse("parallelism.strategy", "a file of its own for FSDP is not read", "fsdp_config")
        return
    if reader.flag("fsdp_config", "xla"):
        reader.refuse("parallelism.strategy", "FSDP of torch_xla is not modelled", "fsdp_config", "xla")
    huggingface.fsdp(reader, ("fsdp_config",), _FSDP, "fsdp")


def _script(reader: Reader) -> None:
    """The length that transformers' own example scripts take from the same file."""
    for key in ("block_size", "max_seq_length"):
        if (length := reader.whole(key)) is not None:
            reader.set("batch.sequence_length", length, key)


def _sft(reader: Reader) -> None:
    """What ``SFTConfig`` adds."""
    key = next((key for key in ("max_length", "max_seq_length") if reader.has(key)), "max_length")
    reader.take("batch.sequence_length", reader.whole(key), key, default=1024, source=TRL)
    for packed in ("packing", "padding_free"):
        if reader.flag(packed):
            reader.warn("sequences in one row are estimated as rows of the full length", packed)
    if reader.flag("activation_offloading"):
        reader.refuse("checkpointing", "offloaded activations are not modelled", "activation_offloading")
    reader.warn(
        "SFTTrainer computes the loss in chunks; the estimate has the whole logits, and is an upper bound", field="loss"
    )

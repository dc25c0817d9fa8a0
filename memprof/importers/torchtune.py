"""A recipe's config of torchtune (YAML). The recipe itself, and so the number of GPUs, is named on the command line.

What a recipe does shows in its keys: one with an optimizer trains, one with tasks evaluates, one with a prompt
generates, and one with nothing but a quantizer writes a checkpoint.

Source: torchtune 0.6.1: recipes/{full,lora}_finetune_distributed.py, recipes/{eleuther_eval,generate,quantize}.py,
recipes/{qat,full_dpo,knowledge_distillation}_distributed.py, recipes/dev/generate_v2.py.
"""

from __future__ import annotations

from memprof.errors import UnsupportedError
from memprof.importers.reader import Reader
from memprof.importers.torchtune_model import model

SOURCE = "torchtune 0.6.1: recipes/"
_OPTIMIZERS = {
    "torch.optim.AdamW": "adamw",
    "torch.optim.Adam": "adam",
    "torch.optim.SGD": "sgd",
    "bitsandbytes.optim.AdamW8bit": "adamw-8bit",
    "bitsandbytes.optim.PagedAdamW8bit": "paged-adamw-8bit",
    "bitsandbytes.optim.PagedAdamW": "paged-adamw",
}
_PRECISIONS = {"bf16": "bfloat16", "fp32": "float32"}
_LOSSES = {
    "LinearCrossEntropyLoss": "chunked",
    "CEWithChunkedOutputLoss": "chunked",
    "CrossEntropyLoss": "full",
}
_PREFERENCE = "training by preference or reward is not modelled"
_REFUSED = {
    "teacher_model": ("distillation, with a teacher beside the model, is not modelled", "task"),
    "ref_checkpointer": (_PREFERENCE, "task"),
    "reward_and_value_model": (_PREFERENCE, "task"),
    "orchestration": (_PREFERENCE, "task"),
    "quantizer": ("quantization-aware training is not modelled", None),
    "early_exit_loss": ("a loss of each layer is not modelled", None),
    "layer_dropout": ("layers that are left out by chance are not modelled", None),
}
"""What makes a recipe another one than fine-tuning of one model, and the field that says to estimate it as that."""


def read(reader: Reader) -> None:
    """Maps the whole file.

    Raises:
        UnsupportedError: it neither trains, evaluates nor generates.
    """
    model(reader)
    dtype = reader.choice(_PRECISIONS, "dtype")
    if dtype is not None:
        reader.set("weights", dtype, "dtype")
        reader.set("mixed", "no", "dtype")
    if (reader.text("device") or "cuda").partition(":")[0] == "cpu":
        reader.set("device", "cpu", "device")
    tensor = reader.whole("tensor_parallel_dim")
    if tensor is not None:
        reader.set("parallelism.tensor", tensor, "tensor_parallel_dim")
    if reader.has("optimizer") or reader.has("orchestration"):
        _training(reader)
    elif reader.get("tasks") is not None:
        _evaluation(reader)
    elif reader.has("max_new_tokens"):
        _generation(reader)
    elif reader.get("quantizer") is not None:
        raise UnsupportedError(
            f"{reader.where('quantizer')}: this recipe writes a quantized checkpoint, and trains nothing",
            "give the config of a recipe that trains, evaluates or generates",
        )
    else:
        _training(reader)


def _evaluation(reader: Reader) -> None:
    """Sequences of the greatest length, whose logits are all looked at.

    Source: torchtune/modules/transformer.py (``unembed``);
    https://github.com/EleutherAI/lm-evaluation-harness/blob/main/lm_eval/models/huggingface.py.
    """
    reader.set("mode", "inference", "tasks")
    reader.warn(
        "the harness has logits and their logarithms in float32, 8 bytes for each token and entry of the vocabulary,"
        " which the estimate leaves out",
        "tasks",
    )
    _sizes(reader, (("batch_size",), "micro_batch_size"), (("max_seq_length",), "sequence_length"))
    _quantized(reader)


def _generation(reader: Reader) -> None:
    """One prompt, whose length no file says."""
    reader.set("mode", "inference", "max_new_tokens")
    _sizes(reader, (("max_new_tokens",), "new_tokens"))
    reader.warn(
        "the prompt's length is that of its words; the estimate has memprof's default",
        "prompt",
        field="batch.sequence_length",
    )
    if reader.flag("enable_kv_cache") is False:
        reader.warn("the estimate has a cache of keys and values", "enable_kv_cache")
    if reader.get("tensor_parallel_plan") is not None:
        reader.warn(
            "each layer is shared by all GPUs, whose number no file says; the estimate has one, unless --tensor is set",
            "tensor_parallel_plan",
            field="parallelism.tensor",
        )
    _quantized(reader)


def _quantized(reader: Reader) -> None:
    if reader.get("quantizer") is not None:
        reader.refuse("quantization", "torchao's quantized weights are not modelled", "quantizer")


def _training(reader: Reader) -> None:
    for key, (why, field) in _REFUSED.items():
        if reader.get(key) is not None:
            reader.refuse(field, why, key)
    _batch(reader)
    _optimizer(reader)
    _loss(reader)
    _checkpointing(reader)
    if reader.flag("compile"):
        reader.set("compile.mode", "default", "compile")
    _sharding(reader)


def _sizes(reader: Reader, *sizes: tuple[tuple[str, ...], str]) -> None:
    for keys, field in sizes:
        if (value := reader.whole(*keys)) is not None:
            reader.set(f"batch.{field}", value, *keys)


def _batch(reader: Reader) -> None:
    length = ("tokenizer", "max_seq_len")
    _sizes(
        reader,
        (("batch_size",), "micro_batch_size"),
        (("gradient_accumulation_steps",), "gradient_accumulation_steps"),
        (length, "sequence_length"),
    )
    if not reader.has(*length):
        reader.warn(
            "no length is set, so the longest sequence decides; the estimate has memprof's default",
            field="batch.sequence_length",
        )
    if norm := reader.number("clip_grad_norm"):
        reader.set("loop.clip_grad_norm", norm, "clip_grad_norm")
    if reader.flag("dataset", "packed"):
        reader.warn("packed sequences are estimated as rows of the full length", "dataset", "packed")


def _checkpointing(reader: Reader) -> None:
    """On or off, or selective: every so many layers, or by operator (training/activations.py)."""
    mode, option = reader.text("ac_mode"), reader.text("ac_option") or ""
    on = reader.flag("enable_activation_checkpointing")
    if mode == "selective":
        how = {"every": int(option)} if option.isdecimal() and option.isascii() else "selective"
        reader.set("checkpointing", how, "ac_mode")
    elif on is None:
        reader.assume("checkpointing", "none", SOURCE)
    else:
        reader.set("checkpointing", "full" if on else "none", "enable_activation_checkpointing")
    if reader.flag("enable_activation_offloading"):
        reader.refuse("checkpointing", "offloaded activations are not modelled", "enable_activation_offloading")


def _optimizer(reader: Reader) -> None:
    component = reader.text("optimizer", "_component_")
    if component is None:
        return
    name = _OPTIMIZERS.get(component)
    if name is None:
        reader.refuse("optimizer.name", "the estimate does not know this optimizer", "optimizer", "_component_")
        return
    reader.set("optimizer.name", name, "optimizer", "_component_")
    if component.startswith("torch."):
        _implementation(reader)
    if (decay := reader.number("optimizer", "weight_decay")) is not None:
        reader.set("optimizer.weight_decay", decay, "optimizer", "weight_decay")
    if reader.flag("optimizer_in_bwd"):
        reader.refuse("optimizer.name", "stepping in backward is not modelled", "optimizer_in_bwd")


def _implementation(reader: Reader) -> None:
    """Foreach where neither flag is set; where one is false and the other not true, parameters one by one.

    Source: torch 2.13 wheel: optim/adam.py (``adam``), optim/sgd.py (``sgd``).

    Raises:
        ConfigError: both are true, which torch refuses.
    """
    fused, foreach = (reader.flag("optimizer", key) for key in ("fused", "foreach"))
    if fused and foreach:
        raise reader.error("and foreach are both true, which torch refuses", "optimizer", "fused")
    said = None if fused is None and foreach is None else "fused" if fused else "foreach" if foreach else "for-loop"
    reader.take(
        "optimizer.implementation",
        said,
        "optimizer",
        "fused" if fused is not None and not foreach else "foreach",
        default="foreach",
        source="torch 2.13: optim/optimizer.py, on a GPU",
    )


def _loss(reader: Reader) -> None:
    component = reader.text("loss", "_component_")
    if component is None:
        return
    kind = component.rpartition(".")[2]
    if kind not in _LOSSES:
        reader.refuse("task", "training with another loss than cross-entropy is not modelled", "loss", "_component_")
        return
    reader.set("loss", _LOSSES[kind], "loss", "_component_")
    if kind == "CEWithChunkedOutputLoss":
        reader.warn("the logits of all its chunks are there at once, and are left out", "loss", "_component_")
    chunks = reader.whole("loss", "num_output_chunks")
    if chunks not in (None, 8):
        reader.warn("the estimate has 8 chunks", "loss", "num_output_chunks", field="loss")


def _sharding(reader: Reader) -> None:
    """FSDP2, where keys say so: a recipe for several GPUs has it anyway, but its name is not in the file."""
    for key, degree in (("data_parallel_shard_dim", "data"), ("data_parallel_replicate_dim", "replicate")):
        size = reader.whole(key)
        if size not in (None, 1):
            reader.set("parallelism.strategy", "fsdp", key)
        if size is not None and size > 1:
            reader.set(f"parallelism.{degree}", size, key)
    if reader.flag("fsdp_cpu_offload"):
        reader.set("offload.optimizer", True, "fsdp_cpu_offload")
        reader.set("offload.parameters", True, "fsdp_cpu_offload")
    if reader.flag("fsdp_reshard_after_forward") is False:
        reader.refuse(
            "parallelism.strategy",
            "weights kept whole from forward to backward are not modelled",
            "fsdp_reshard_after_forward",
        )

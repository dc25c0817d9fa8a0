"""A recipe's config of torchtune (YAML). The recipe itself, and so the number of GPUs, is named on the command line.

Source: torchtune 0.6.1: recipes/full_finetune_distributed.py, recipes/lora_finetune_distributed.py,
torchtune/models/*/_model_builders.py, torchtune/models/llama3/_component_builders.py.
"""

from __future__ import annotations

import re

from memprof.importers.reader import Reader

SOURCE = "torchtune 0.6.1: recipes/"
_MODELS = {
    "llama2_7b": "llama-2-7b", "llama2_13b": "llama-2-13b", "llama2_70b": "llama-2-70b",
    "llama3_8b": "llama-3-8b", "llama3_70b": "llama-3-70b",
    "llama3_1_8b": "llama-3.1-8b", "llama3_1_70b": "llama-3.1-70b", "llama3_1_405b": "llama-3.1-405b",
    "llama3_2_1b": "llama-3.2-1b", "llama3_2_3b": "llama-3.2-3b", "llama3_3_70b": "llama-3.1-70b",
    "code_llama2_7b": "codellama-7b", "code_llama2_13b": "codellama-13b",
    "mistral_7b": "mistral-7b-v0.1", "phi3_mini": "phi-3-mini", "phi4_14b": "phi-4",
    "gemma2_2b": "gemma-2-2b", "gemma2_9b": "gemma-2-9b", "gemma2_27b": "gemma-2-27b",
    "qwen2_0_5b": "qwen2-0.5b", "qwen2_1_5b": "qwen2-1.5b", "qwen2_7b": "qwen2-7b",
    "qwen2_5_0_5b": "qwen2.5-0.5b", "qwen2_5_1_5b": "qwen2.5-1.5b", "qwen2_5_3b": "qwen2.5-3b",
    "qwen2_5_7b": "qwen2.5-7b", "qwen2_5_14b": "qwen2.5-14b", "qwen2_5_32b": "qwen2.5-32b",
    "qwen2_5_72b": "qwen2.5-72b",
}  # fmt: skip
"""Builder's name, without what it adds (``qlora_``) and what does not change dimensions (``_instruct``); model here."""
_OPTIMIZERS = {
    "torch.optim.AdamW": "adamw",
    "torch.optim.Adam": "adam",
    "torch.optim.SGD": "sgd",
    "bitsandbytes.optim.AdamW8bit": "adamw-8bit",
    "bitsandbytes.optim.PagedAdamW8bit": "paged-adamw-8bit",
    "bitsandbytes.optim.PagedAdamW": "paged-adamw",
}
_PRECISIONS = {"bf16": "bfloat16", "fp32": "float32"}
_ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "output_proj": "o_proj"}
_MLP = ["gate_proj", "up_proj", "down_proj"]
_CHUNKED = ("CEWithChunkedOutputLoss", "LinearCrossEntropyLoss")
_BUILDER = re.compile(r"torchtune\.models\.\w+\.(qlora_|lora_|dora_|qdora_)?(\w+?)(?:_base|_instruct)?\Z")
_OTHER_RECIPES = ("teacher_model", "ref_policy_model", "ref_checkpointer", "reward_and_value_model", "quantizer")


def read(reader: Reader) -> None:
    """Maps the whole file."""
    _model(reader)
    _batch(reader)
    dtype = reader.choice(_PRECISIONS, "dtype")
    if dtype is not None:
        reader.set("weights", dtype, "dtype")
        reader.set("mixed", "no", "dtype")
    _optimizer(reader)
    _loss(reader)
    _checkpointing(reader)
    if reader.flag("enable_activation_offloading"):
        reader.refuse("checkpointing", "offloaded activations are not modelled", "enable_activation_offloading")
    if reader.flag("compile"):
        reader.set("compile.mode", "default", "compile")
    if reader.flag("fsdp_cpu_offload"):
        reader.set("offload.optimizer", True, "fsdp_cpu_offload")
        reader.set("offload.parameters", True, "fsdp_cpu_offload")
    if reader.flag("fsdp_reshard_after_forward") is False:
        reader.refuse(
            "parallelism.strategy",
            "weights kept whole from forward to backward are not modelled",
            "fsdp_reshard_after_forward",
        )
    tensor = reader.whole("tensor_parallel_dim")
    if tensor is not None:
        reader.set("parallelism.tensor", tensor, "tensor_parallel_dim")
    if (reader.text("device") or "cuda").partition(":")[0] == "cpu":
        reader.set("device", "cpu", "device")
    for key in _OTHER_RECIPES:
        if reader.get(key) is not None:
            reader.refuse("task", "a recipe with a second model is not modelled", key)


def _model(reader: Reader) -> None:
    component = reader.text("model", "_component_") or ""
    match = _BUILDER.match(component)
    variant, name = match.groups() if match else (None, component)
    if name not in _MODELS:
        reader.refuse("model", "has no counterpart here", "model", "_component_")
    else:
        reader.set("model", _MODELS[name], "model", "_component_")
        reader.warn(
            "torchtune's own model code is estimated as that of transformers", "model", "_component_", field="model"
        )
    if variant is None:
        return
    if variant in ("dora_", "qdora_") or reader.flag("model", "use_dora"):
        reader.refuse("adapter", "DoRA is not modelled", "model", "_component_")
    if variant in ("qlora_", "qdora_") or reader.flag("model", "quantize_base"):
        reader.set("quantization", "nf4-double", "model", "_component_")
        reader.warn("torchao's NF4 is estimated as bitsandbytes'", "model", "_component_", field="quantization")
    _lora(reader)


def _lora(reader: Reader) -> None:
    rank = reader.whole("model", "lora_rank")
    builders = "torchtune 0.6.1: models/*/_model_builders.py"
    reader.take("adapter.rank", rank, "model", "lora_rank", default=8, source=builders)
    dropout = reader.number("model", "lora_dropout")
    reader.take("adapter.dropout", dropout, "model", "lora_dropout", default=0.0, source=builders)
    targets = [_ATTENTION.get(name, name) for name in reader.words("model", "lora_attn_modules") or ()]
    if reader.flag("model", "apply_lora_to_mlp"):
        targets += _MLP
    if reader.flag("model", "apply_lora_to_output"):
        targets += ["lm_head"]
    reader.set("adapter.target_modules", targets, "model", "lora_attn_modules")
    reader.warn(
        "its adapters have the type of the weights; the estimate has them in float32, as PEFT's are",
        "model",
        "_component_",
        field="adapter",
    )


def _batch(reader: Reader) -> None:
    for keys, field in (
        (("batch_size",), "micro_batch_size"),
        (("gradient_accumulation_steps",), "gradient_accumulation_steps"),
        (("tokenizer", "max_seq_len"), "sequence_length"),
    ):
        if (value := reader.whole(*keys)) is not None:
            reader.set(f"batch.{field}", value, *keys)
        elif field == "sequence_length":
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
        fused = reader.flag("optimizer", "fused")
        reader.take(
            "optimizer.implementation",
            fused and "fused",
            "optimizer",
            "fused",
            default="foreach",
            source="torch 2.13: optim/optimizer.py, on a GPU",
        )
    if (decay := reader.number("optimizer", "weight_decay")) is not None:
        reader.set("optimizer.weight_decay", decay, "optimizer", "weight_decay")
    if reader.flag("optimizer_in_bwd"):
        reader.refuse("optimizer.name", "stepping in backward is not modelled", "optimizer_in_bwd")


def _loss(reader: Reader) -> None:
    component = reader.text("loss", "_component_")
    if component is not None:
        chunked = component.rpartition(".")[2] in _CHUNKED
        reader.set("loss", "chunked" if chunked else "full", "loss", "_component_")

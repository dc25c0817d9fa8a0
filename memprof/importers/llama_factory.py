"""A training config of LLaMA-Factory (YAML): transformers' TrainingArguments and its own fields in one mapping.

Source: llamafactory 0.9.5: hparams/{model,data,finetuning}_args.py, model/adapter.py, model/model_utils/.
"""

from __future__ import annotations

from memprof.errors import UnsupportedError
from memprof.importers import huggingface
from memprof.importers.reader import Reader
from memprof.importers.training_arguments import SOURCE as TRAINER
from memprof.importers.training_arguments import arguments

SOURCE = "llamafactory 0.9.5: hparams/"
_STAGES = {"pt": True, "sft": True, "rm": False, "ppo": False, "dpo": False, "kto": False}
"""Whether a stage is trained as a causal language model is."""
_ATTENTION = {"auto": "sdpa", "sdpa": "sdpa", "disabled": "eager", "fa2": "flash-attn"}
_OPTIMIZERS = ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon")
_KERNELS = (
    "use_unsloth", "use_unsloth_gc", "shift_attn", "mixture_of_depths", "use_llama_pro", "use_mca", "use_kt",
    "use_megatron_bridge", "use_hyper_parallel", "fp8",
)  # fmt: skip
_MEGATRON = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "use_distributed_optimizer")
"""Arguments of Megatron, which an environment variable turns on (hparams/parser.py, ``USE_MCA``)."""


def read(reader: Reader) -> None:
    """Maps the whole file.

    Raises:
        UnsupportedError: it neither trains nor generates.
    """
    if name := reader.text("model_name_or_path"):
        reader.set("model", name, "model_name_or_path")
    _attention(reader)
    _quantization(reader)
    for key in _KERNELS:
        if reader.get(key):
            reader.refuse(None, "is not modelled", key)
    generating = _generating(reader)
    if generating is not None:
        _inference(reader, generating)
    elif reader.get("export_dir") and not reader.flag("do_train"):
        raise exports(reader, "export_dir")
    else:
        _training(reader)


def exports(reader: Reader, *keys: str) -> UnsupportedError:
    """An error to raise: the config is for a command that writes a model, and trains none."""
    message = f"{reader.where(*keys)}: {keys[-1]} is where a model is written to, and nothing is trained"
    return UnsupportedError(message, "give a config that trains or generates")


def _generating(reader: Reader) -> str | None:
    """The key of a config that generates: for ``llamafactory-cli chat`` and its like, or for the Trainer."""
    if reader.flag("do_train"):
        return None
    if reader.flag("do_predict"):
        return "do_predict"
    return "infer_backend" if reader.has("infer_backend") else None


def _inference(reader: Reader, key: str) -> None:
    """An adapter is merged into the weights, which keep the checkpoint's type, unless ``infer_dtype`` says otherwise.

    Source: model/adapter.py, model/patcher.py (``patch_config``), hparams/generating_args.py, chat/hf_engine.py.

    Raises:
        ConfigError: another engine generates.
    """
    reader.set("mode", "inference", key)
    if (reader.text("infer_backend") or "huggingface") != "huggingface":
        raise reader.error("must be huggingface, as other engines are not modelled", "infer_backend")
    if key == "do_predict":
        size, length = "per_device_eval_batch_size", "cutoff_len"
        reader.take("batch.micro_batch_size", reader.whole(size), size, default=8, source=TRAINER)
        reader.take("batch.sequence_length", reader.whole(length), length, default=2048, source=SOURCE)
    else:
        reader.assume("batch.micro_batch_size", 1, "llamafactory 0.9.5: chat/hf_engine.py")
        reader.warn(
            "no file says how long a prompt is; the estimate has memprof's default", field="batch.sequence_length"
        )
    tokens = reader.whole("max_new_tokens")
    reader.take("batch.new_tokens", tokens, "max_new_tokens", default=1024, source=SOURCE)
    weights = huggingface.dtype(reader.text("infer_dtype"))
    reader.take(
        "weights", weights, "infer_dtype", default="bfloat16", source=f"{SOURCE}, the checkpoint's type, often this"
    )
    reader.assume("mixed", "no", SOURCE)


def _training(reader: Reader) -> None:
    if reader.choice(_STAGES, "stage") is False:
        reader.refuse("task", "training by preference or reward is not modelled", "stage")
    if reader.flag("use_asft_loss"):
        reader.refuse("task", "a loss that a second model has a part in is not modelled", "use_asft_loss")
    length = reader.whole("cutoff_len")
    reader.take("batch.sequence_length", length, "cutoff_len", default=2048, source=SOURCE)
    arguments(reader, checkpointing=False)
    _checkpointing(reader)
    tuned = (reader.text("finetuning_type") or "lora").lower()
    if not reader.has("finetuning_type"):
        reader.assume("adapter.type", "lora", SOURCE)
    _weights(reader, tuned)
    if tuned == "lora":
        _lora(reader)
    elif tuned != "full":
        reader.refuse("adapter", "training a part of the weights this way is not modelled", "finetuning_type")
    if reader.flag("enable_liger_kernel"):
        reader.set("loss", "fused", "enable_liger_kernel")
    for key in _OPTIMIZERS:
        if reader.flag(key):
            reader.refuse("optimizer.name", "the estimate does not know this optimizer", key)
    megatron = [key for key in _MEGATRON if reader.get(key) is not None]
    if megatron:
        reader.refuse("parallelism.strategy", "Megatron's engine is not modelled", megatron[0])
    for key in ("packing", "neat_packing"):
        if reader.flag(key):
            reader.warn("sequences in one row are estimated as rows of the full length", key)
    for key in ("upcast_layernorm", "upcast_lmhead_output", "resize_vocab"):
        if reader.flag(key):
            reader.warn("is left out", key)
    for key in ("use_dft_loss", "use_eaft_loss"):
        if reader.flag(key):
            reader.warn("what this loss computes beside the cross-entropy is left out", key, field="loss")


def _checkpointing(reader: Reader) -> None:
    """On, unless it is switched off. Source: model/model_utils/checkpointing.py, ``prepare_model_for_training``."""
    off = reader.flag("disable_gradient_checkpointing")
    if off is None:
        reader.assume("checkpointing", "full", SOURCE)
    else:
        reader.set("checkpointing", "none" if off else "full", "disable_gradient_checkpointing")
    if reader.flag("use_reentrant_gc") is not False and not off:
        reader.warn("its reentrant checkpointing is estimated as the other kind", field="checkpointing")


def _attention(reader: Reader) -> None:
    word = reader.text("flash_attn")
    if word is None or word.lower() in _ATTENTION:
        reader.take("attention", word and _ATTENTION[word.lower()], "flash_attn", default="sdpa", source=SOURCE)
    else:
        reader.refuse("attention", "the estimate does not know this attention", "flash_attn")


def _weights(reader: Reader, tuned: str) -> None:
    """Loaded in the type of the arithmetic; what is trained is upcast to float32, unless ``pure_bf16``.

    Source: hparams/parser.py (``compute_dtype``), model/adapter.py (``init_adapter``).
    """
    pure, bf16, fp16 = reader.flag("pure_bf16"), reader.flag("bf16"), reader.flag("fp16")
    if pure:
        reader.set("weights", "bfloat16", "pure_bf16")
    elif tuned != "lora":
        reader.assume("weights", "float32", "llamafactory 0.9.5: model/adapter.py upcasts what is trained")
    elif bf16 or fp16:
        reader.set("weights", "bfloat16" if bf16 else "float16", "bf16" if bf16 else "fp16")


def _lora(reader: Reader) -> None:
    reader.take("adapter.rank", reader.whole("lora_rank"), "lora_rank", default=8, source=SOURCE)
    dropout = reader.number("lora_dropout")
    reader.take("adapter.dropout", dropout, "lora_dropout", default=0.0, source=SOURCE)
    targets = reader.words("lora_target")
    named = ["all-linear"] if targets == ["all"] else targets
    reader.take("adapter.target_modules", named, "lora_target", default=["all-linear"], source=SOURCE)
    huggingface.lora_extras(reader, "additional_target", "use_dora")


def _quantization(reader: Reader) -> None:
    bits = reader.whole("quantization_bit")
    if bits is None:
        return
    if bits == 8:
        reader.set("quantization", "int8", "quantization_bit")
    elif bits == 4:
        double = reader.flag("double_quantization")
        kind = reader.text("quantization_type") or "nf4"
        huggingface.four_bit(reader, kind.lower(), double is not False, "quantization_bit")
    else:
        reader.refuse("quantization", "only 4 and 8 bits are modelled", "quantization_bit")
    method = (reader.text("quantization_method") or "bnb").lower()
    if method not in ("bnb", "bitsandbytes"):
        reader.refuse("quantization", "only bitsandbytes is modelled", "quantization_method")

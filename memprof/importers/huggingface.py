"""What every user of the Hugging Face Trainer writes alike: optimizer names, LoRA, bitsandbytes, attention, FSDP."""

from __future__ import annotations

from typing import Any, NamedTuple

from memprof.importers.reader import Reader

_STRATEGY = "parallelism.strategy"
FUSED = ("adamw", "fused")
OPTIMIZERS: dict[str, tuple[str, str]] = {
    "adamw_torch": ("adamw", "foreach"),
    "adamw_torch_fused": FUSED,
    "adamw_torch_8bit": ("torchao-adamw-8bit", "auto"),
    "adamw_torch_4bit": ("torchao-adamw-4bit", "auto"),
    "adafactor": ("adafactor", "auto"),
    "sgd": ("sgd", "auto"),
    "adagrad": ("adagrad", "auto"),
    "rmsprop": ("rmsprop", "auto"),
    "adamw_bnb_8bit": ("adamw-8bit", "auto"),
    "adamw_8bit": ("adamw-8bit", "auto"),
    "paged_adamw_32bit": ("paged-adamw", "auto"),
    "paged_adamw_8bit": ("paged-adamw-8bit", "auto"),
    "lion_32bit": ("lion", "auto"),
    "lion_8bit": ("lion-8bit", "auto"),
    "paged_lion_32bit": ("paged-lion", "auto"),
    "paged_lion_8bit": ("paged-lion-8bit", "auto"),
}
"""Scenario's name and implementation of the Trainer's ``optim``; ``adamw_torch`` leaves both flags of torch at None,
which is foreach on a GPU. Source: transformers 5.23: training_args.py (``OptimizerNames``), trainer_optimizer.py."""

ATTENTION = {
    "sdpa": "sdpa",
    "eager": "eager",
    "flash_attention_2": "flash-attn",
    "kernels-community/flash-attn2": "flash-attn",
}
"""transformers' ``attn_implementation``. Source: transformers 5.23: modeling_utils.py, ``AttentionInterface``."""

SHARDING = {
    "true": "full", "full_shard": "full", "1": "full",
    "false": "gradients", "shard_grad_op": "gradients", "2": "gradients",
    "no_shard": "none", "3": "none",
    "hybrid_shard": "hybrid", "4": "hybrid",
    "hybrid_shard_zero2": "gradients", "5": "gradients",
}  # fmt: skip
"""``fsdp_sharding_strategy`` and ``fsdp_reshard_after_forward``, which FSDP2 writes as a flag.

Source: accelerate 1.15: utils/constants.py (``FSDP_SHARDING_STRATEGY``), utils/dataclasses.py."""

FOUR_BIT = {("nf4", False): "nf4", ("nf4", True): "nf4-double", ("fp4", False): "fp4"}


class Fsdp(NamedTuple):
    """What differs between those who configure accelerate's FSDP plugin.

    Attributes:
        version: where none is stated: 1 in accelerate 1.15 (utils/launch.py), 2 in transformers 5.23
            (training_args.py, ``_process_fsdp_args``).
        offload: name of the flag that moves parameters to the host.
        wraps: whether layers are wrapped where no policy is stated.
    """

    version: int
    offload: str
    wraps: bool = False


def optimizer(reader: Reader, key: str, source: str) -> None:
    """``optim`` or its like; one that the estimate does not know is refused."""
    word = reader.text(key)
    if word is not None and word not in OPTIMIZERS:
        reader.refuse("optimizer.name", "the estimate does not know this optimizer", key)
        return
    name, implementation = (None, None) if word is None else OPTIMIZERS[word]
    reader.take("optimizer.name", name, key, default=FUSED[0], source=source)
    reader.take("optimizer.implementation", implementation, key, default=FUSED[1], source=source)
    if name == "adafactor":
        reader.warn("Trainer's own Adafactor has larger temporaries than torch's, which is estimated", key)


def clip(reader: Reader, key: str, source: str) -> None:
    """``max_grad_norm``; zero turns clipping off."""
    norm = reader.number(key)
    if norm == 0:
        reader.set("loop.clip_grad_norm", None, key)
    else:
        reader.take("loop.clip_grad_norm", norm, key, default=1.0, source=source)


def attention(reader: Reader, *keys: str) -> None:
    """``attn_implementation``; transformers' own choice is SDPA."""
    word = reader.text(*keys)
    if word is None:
        return
    if word in ATTENTION:
        reader.set("attention", ATTENTION[word], *keys)
    else:
        reader.refuse("attention", "the estimate does not know this attention", *keys)


def four_bit(reader: Reader, kind: str, double: bool, *keys: str) -> None:
    """4-bit weights of bitsandbytes."""
    quantization = FOUR_BIT.get((kind, double))
    if quantization is None:
        reader.refuse("quantization", f"{kind} with double quantization is not modelled", *keys)
    else:
        reader.set("quantization", quantization, *keys)


def lora_extras(reader: Reader, *keys: str) -> None:
    """Variants of LoRA that train more than its two matrices."""
    for key in keys:
        if reader.get(key) not in (None, False):
            reader.refuse("adapter", "these trainable parameters are not modelled", key)


def compiled(reader: Reader, key: str, mode_key: str | None = None) -> None:
    """``torch_compile`` (``auto``: where torch can) and its mode, which alone asks for it too."""
    mode = reader.text(mode_key) if mode_key else None
    if mode_key and mode is not None:
        reader.set("compile.mode", mode, mode_key)
    elif reader.text(key) == "auto" or reader.flag(key):
        reader.set("compile.mode", "default", key)


def fsdp(reader: Reader, section: tuple[str, ...], about: Fsdp, *said: str) -> None:
    """An FSDP plugin's settings, with or without ``fsdp_`` before each name.

    Args:
        section: the mapping that holds them.
        said: the key that turns FSDP on.
    """
    names = {name.removeprefix("fsdp_"): name for name in reader.names(*section)}

    def key(name: str) -> tuple[str, ...]:
        return (*section, names.get(name, name))

    if (reader.whole(*key("version")) or about.version) == 1:
        reader.warn("FSDP1 is estimated as FSDP2, whose buffers differ", *said)
    how, at = "full", said
    for name in ("sharding_strategy", "reshard_after_forward"):
        if reader.has(*key(name)):
            how, at = reader.choice(SHARDING, *key(name)), key(name)
    if how == "gradients":
        reader.refuse(_STRATEGY, "weights kept whole from forward to backward are not modelled", *at)
    reader.set(_STRATEGY, {"none": "ddp", "hybrid": "hsdp"}.get(how, "fsdp"), *at)
    if reader.flag(*key(about.offload)):
        reader.set("offload.parameters", True, *key(about.offload))
        reader.set("offload.optimizer", True, *key(about.offload))
    if reader.flag(*key("activation_checkpointing")):
        reader.set("checkpointing", "full", *key("activation_checkpointing"))
    if reader.flag(*key("activation_checkpointing_offload")):
        reader.refuse(
            "checkpointing", "offloaded activations are not modelled", *key("activation_checkpointing_offload")
        )
    policy = reader.text(*key("auto_wrap_policy"))
    if policy is not None and policy.upper() != "TRANSFORMER_BASED_WRAP":
        reader.refuse(_STRATEGY, "only layers that are wrapped one by one are modelled", *key("auto_wrap_policy"))
    elif policy is None and not about.wraps:
        reader.warn("no fsdp_auto_wrap_policy is stated; the estimate wraps each layer", *said, field=_STRATEGY)
    reader.get(*key("transformer_layer_cls_to_wrap"))
    if reader.flag(*key("forward_prefetch")):
        reader.warn("the layer gathered ahead in forward is left out", *key("forward_prefetch"))
    reader.warn(
        "accelerate reduces gradients in the 16-bit type and runs autocast over fully_shard; the estimate reduces in"
        " float32 without autocast",
        *said,
        field="precision",
    )


def dtype(word: Any) -> str | None:
    """``"bfloat16"`` of ``torch.bfloat16`` or ``bfloat16``; None for ``auto`` and what is none."""
    name = str(word).removeprefix("torch.")
    return name if name in ("float32", "bfloat16", "float16") else None

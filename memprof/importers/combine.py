"""Several files into one: contradictions refused, defaults filled in, and what files decide together decided.

Importers state some facts that are no scenario fields, because more than one file has a say:

| fact | is |
|---|---|
| ``world`` | GPUs in all |
| ``mixed`` | ``no``, ``bf16`` or ``fp16``: autocast, or DeepSpeed's 16-bit training |
| ``weights`` | dtype in which the model is loaded: ``float32``, ``bfloat16``, ``float16`` |
| ``global_batch`` | sequences of an optimizer step over all GPUs |
| ``offload.optimizer``, ``offload.parameters`` | true |
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import msgspec

from memprof.errors import ConfigError
from memprof.importers.imported import Default, Imported, Note, Setting, shown

FACTS = frozenset(("world", "mixed", "weights", "global_batch", "offload.optimizer", "offload.parameters"))
_DEGREES = ("replicate", "tensor", "pipeline", "context")
_UNSAID_WEIGHTS = (
    "assumed weights float32: no file says in which type they are loaded, and transformers 5 keeps the checkpoint's;"
    " where that is bfloat16, set --precision bf16"
)

Said = dict[str, Setting | Default]


def combine(parts: Sequence[Imported]) -> Imported:
    """One import of several, without facts.

    Raises:
        ConfigError: two files contradict each other, as the libraries themselves would say.
    """
    said: Said = {}
    for part in parts:
        for setting in part.settings:
            said[setting.field] = _agreed(said.get(setting.field), setting)
    for part in parts:
        for default in part.defaults:
            _check_default(said.get(default.field), default)
            said.setdefault(default.field, default)
    notes: list[Note] = [note for part in parts for note in part.notes]
    _batch(said)
    _offload(said)
    _parallelism(said)
    _precision(said, notes)
    fields = {field: one for field, one in said.items() if field not in FACTS}
    return Imported(
        kinds=tuple(kind for part in parts for kind in part.kinds),
        settings=tuple(one for one in fields.values() if isinstance(one, Setting)),
        defaults=tuple(one for one in fields.values() if isinstance(one, Default)),
        ignored=_ignored(parts),
        notes=tuple(dict.fromkeys(notes)),
    )


def _ignored(parts: Sequence[Imported]) -> dict[str, tuple[str, ...]]:
    ignored: dict[str, tuple[str, ...]] = {}
    for part in parts:
        for path, keys in part.ignored.items():
            ignored[path] = ignored.get(path, ()) + keys
    return ignored


def _agreed(before: Setting | Default | None, now: Setting) -> Setting:
    """The one of two settings that holds.

    TrainingArguments' ``bf16`` and ``fp16`` beat the mixed precision that accelerate launches with, DeepSpeed's
    optimizer beats ``optim``, and one who asks for checkpointing is enough; all else has to agree.

    Source: transformers 5.23: training_args.py, ``__post_init__``
    (``ACCELERATE_MIXED_PRECISION``); integrations/deepspeed.py, ``deepspeed_optim_sched``.
    """
    if not isinstance(before, Setting):
        return now
    if before.value == now.value:
        return before
    kinds = (before.kind, now.kind)
    if now.field == "mixed" and "accelerate" in kinds and "deepspeed" not in kinds and kinds[0] != kinds[1]:
        return now if kinds[0] == "accelerate" else before
    if now.field == "checkpointing" and "none" in (before.value, now.value):
        return now if before.value == "none" else before
    if now.field in ("optimizer.name", "optimizer.implementation") and kinds.count("deepspeed") == 1:
        return now if kinds[1] == "deepspeed" else before
    raise ConfigError(
        f"{before} says {shown(before.value)}, but {now} says {shown(now.value)}", "make them agree, or drop one"
    )


_MATCHED = {
    "batch.micro_batch_size": "train_micro_batch_size_per_gpu",
    "batch.gradient_accumulation_steps": "gradient_accumulation_steps",
    "loop.clip_grad_norm": "gradient_clipping",
    "optimizer.weight_decay": "optimizer.params.weight_decay",
}
"""Values of a DeepSpeed config that transformers wants equal to its own, defaults too, unless they are "auto".

Source: transformers 5.23: integrations/deepspeed.py, ``trainer_config_process`` and ``trainer_config_finalize``.
"""


def _check_default(stated: Setting | Default | None, default: Default) -> None:
    if not isinstance(stated, Setting) or default.field not in _MATCHED or stated.value == default.value:
        return
    if stated.kind in ("deepspeed", "accelerate"):
        raise ConfigError(
            f"{stated} says {shown(stated.value)}, but the training arguments leave it at {shown(default.value)}",
            f'make them agree, or write "auto" for {stated.key}',
        )


def _derive(said: Said, field: str, value: Any, by: Setting | Default) -> None:
    said[field] = msgspec.structs.replace(by, field=field, value=value)


def _value(said: Said, field: str, default: Any = None) -> Any:
    return said[field].value if field in said else default


def _group(said: Said) -> int:
    """GPUs that one data-parallel rank takes, times its replicas."""
    return prod(_value(said, f"parallelism.{degree}", 1) for degree in _DEGREES)


def _batch(said: Said) -> None:
    """What is missing of: sequences a step = micro-batch x accumulation x GPUs that share data.

    Raises:
        ConfigError: it does not come out.
    """
    whole = said.get("global_batch")
    if not isinstance(whole, Setting):
        return
    sizes = [said.get(f"batch.{name}") for name in ("micro_batch_size", "gradient_accumulation_steps")]
    micro, steps = (size.value if isinstance(size, Setting) else None for size in sizes)
    world = _value(said, "world")
    ranks = None if world is None else world // _group(said) * _value(said, "parallelism.replicate", 1)
    known = prod(factor for factor in (micro, steps, ranks) if factor is not None)
    if known < 1 or whole.value % known or (None not in (micro, steps, ranks) and whole.value != known):
        factors = " x ".join("?" if factor is None else str(factor) for factor in (micro, steps, ranks))
        raise ConfigError(
            f"{whole} {whole.value} is not micro-batch x accumulation x GPUs = {factors}", "correct one of them"
        )
    rest = whole.value // known
    if ranks is None and micro is not None and steps is not None:
        _derive(said, "world", rest * _group(said), whole)
    elif ranks is not None and micro is None:
        _derive(said, "batch.micro_batch_size", rest, whole)
        _derive(said, "batch.gradient_accumulation_steps", steps or 1, whole)
    elif ranks is not None and steps is None:
        _derive(said, "batch.gradient_accumulation_steps", rest, whole)


def _offload(said: Said) -> None:
    moved = [name for name in ("optimizer", "parameters") if f"offload.{name}" in said]
    if moved:
        _derive(said, "offload", moved, said[f"offload.{moved[0]}"])


def _parallelism(said: Said) -> None:
    """Data parallel is what the world has beyond the other degrees; without a library that shards, it is DDP.

    FSDP whose shards are replicated is HSDP.

    Raises:
        ConfigError: the degrees do not divide the world.
    """
    if _value(said, "parallelism.strategy") == "fsdp" and _value(said, "parallelism.replicate", 1) > 1:
        _derive(said, "parallelism.strategy", "hsdp", said["parallelism.replicate"])
    world = said.get("world")
    if world is None:
        return
    group = _group(said)
    if group < 1 or world.value < 1 or world.value % group:
        raise ConfigError(f"{world} {world.value} does not divide by the other degrees, {group}", "correct the file")
    data = world.value // group
    if data > 1 and "parallelism.strategy" not in said:
        _derive(said, "parallelism.strategy", "ddp", world)
    _derive(said, "parallelism.data", data, world)


def _precision(said: Said, notes: list[Note]) -> None:
    """Precision from the type of the arithmetic and that of the weights.

    DeepSpeed makes a 16-bit copy of its own, accelerate's FSDP upcasts what is trained (utils/fsdp_utils.py,
    ``fsdp2_prepare_model``), and quantized weights have a type of their own: there the loaded type has no say.

    Raises:
        ConfigError: float16 weights are trained under a gradient scaler, which torch refuses.
    """
    mixed, weights = said.get("mixed"), said.get("weights")
    by = mixed if isinstance(mixed, Setting) or weights is None else weights
    if by is None:
        return
    arithmetic, loaded = _value(said, "mixed", "no"), _value(said, "weights", "float32")
    strategy = _value(said, "parallelism.strategy", "none")
    if arithmetic != "no" and (strategy.startswith(("zero", "fsdp", "hsdp")) or "quantization" in said):
        loaded = "float32"
    elif weights is None:
        notes.append(Note(field="precision", message=_UNSAID_WEIGHTS))
    if loaded == "float32":
        _derive(said, "precision", "fp32" if arithmetic == "no" else f"{arithmetic}-mixed", by)
        return
    precision = {"bfloat16": "bf16", "float16": "fp16"}[loaded]
    if (loaded, arithmetic) == ("float16", "fp16") and not any(field.startswith("adapter") for field in said):
        raise ConfigError(f"{by}: torch's gradient scaler refuses float16 weights", "load them in float32")
    _derive(said, "precision", precision, by)
    if arithmetic != "no":
        lora = ", with LoRA's inputs in float32" if "adapter.rank" in said else ""
        message = f"autocast over {loaded} weights is estimated as pure {precision}{lora}"
        notes.append(Note(field="precision", message=message))

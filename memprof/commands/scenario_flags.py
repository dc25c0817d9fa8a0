"""The flags that describe a scenario; each sets one field, and beats the scenario file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import click
import msgspec

from memprof.errors import UsageError
from memprof.importers.overrides import assignment, lay_over, leaves
from memprof.model import scenario as fields
from memprof.model.decode import decode
from memprof.model.scenario import Scenario

_NAMES = "NAME,..."
_FROM = (
    "A training config: accelerate, DeepSpeed, TrainingArguments, SFTConfig, axolotl, LLaMA-Factory, torchtitan or"
    " torchtune; several that belong together; kind:FILE where its keys do not tell."
)
_CHECKPOINTING = Literal["none", "full", "selective"]

# flag, field, its values, help
_FLAGS: tuple[tuple[str, str, Any, str], ...] = (
    ("--task", "task", fields.Task, "The head and its loss; the model's own by default"),
    ("--mode", "mode", fields.Mode, "A training step, or prefill and decode"),
    ("--batch", "batch.micro_batch_size", int, "Sequences or images in a micro-batch"),
    ("--seq", "batch.sequence_length", int, "Tokens in a sequence"),
    ("--accumulate", "batch.gradient_accumulation_steps", int, "Micro-batches before an optimizer step"),
    ("--precision", "precision", fields.Precision, "Type of weights and arithmetic"),
    ("--optimizer", "optimizer.name", fields.OptimizerName, "The optimizer"),
    ("--optimizer-impl", "optimizer.implementation", fields.Implementation, "Its kernels"),
    ("--checkpointing", "checkpointing", _CHECKPOINTING, "Layers recomputed in backward"),
    ("--attention", "attention", fields.Attention, "The attention kernel"),
    ("--loss", "loss", fields.Loss, "How the loss treats the logits"),
    ("--lora", "adapter.rank", int, "Train a LoRA adapter of this rank"),
    ("--lora-targets", "adapter.target_modules", _NAMES, "Modules that LoRA wraps; PEFT's default otherwise"),
    ("--quantize", "quantization", fields.Quantization, "Type of the stored weights"),
    ("--strategy", "parallelism.strategy", fields.Strategy, "What data-parallel GPUs share"),
    ("--tensor", "parallelism.tensor", int, "GPUs that share each layer"),
    ("--pipeline", "parallelism.pipeline", int, "Stages of layers, a GPU each"),
    ("--offload", "offload", _NAMES, "Kept in host memory: optimizer, parameters"),
    ("--device", "device", str, "The GPU, or cpu; memprof devices lists them"),
)


def scenario_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds MODEL, ``--scenario``, ``--set``, ``--gpus`` and one flag for each row of the table."""
    options = [
        click.argument("model", required=False),
        click.option("--scenario", "scenario_file", metavar="FILE", help="A scenario file (YAML); flags beat it."),
        click.option("--from", "configs", multiple=True, metavar="FILE", help=_FROM),
    ]
    options += [_option(*row) for row in _FLAGS]
    options += [
        click.option("--gpus", type=int, metavar="N", help="GPUs in all; those beyond tensor x pipeline share data."),
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any field, by dotted name."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _option(flag: str, field: str, values: Any, text: str) -> Callable[..., Any]:
    if values is int:
        return click.option(flag, _parameter(field), type=int, metavar="N", help=f"{text}.")
    choices = get_args(values)
    if not choices:
        return click.option(flag, _parameter(field), metavar=values if values is _NAMES else "NAME", help=f"{text}.")
    listed = f"{text}: {', '.join(choices)}."
    return click.option(flag, _parameter(field), type=click.Choice(choices), metavar="NAME", help=listed)


class Described(NamedTuple):
    """A scenario, and what importing it left out or assumed, for the result's warnings."""

    scenario: Scenario
    notes: list[str]


def scenario_of(
    model: str | None,
    scenario_file: str | None,
    configs: tuple[str, ...],
    gpus: int | None,
    assignments: tuple[str, ...],
    **flags: Any,
) -> Described:
    """The scenario that training configs, scenario file, flags and ``--set`` describe, the later beating the earlier.

    Raises:
        ConfigError: a field is unknown, missing or of the wrong type; see ``decode``.
        UsageError: no model, or ``--gpus`` that cannot be shared out.
    """
    data: dict[str, Any] = {}
    notes: list[str] = []
    if scenario_file is not None:
        from memprof.importers.scenario_file import read

        data = read(scenario_file)
    given = [("model", model)] if model is not None else []
    for _, field, kind, _ in _FLAGS:
        value = flags[_parameter(field)]
        if value is not None:
            given.append((field, value.split(",") if kind is _NAMES else value))
    given += [assignment(text) for text in assignments]
    if configs:
        gpus_given = [] if gpus is None else [("parallelism.data", gpus)]
        data, notes = _imported(configs, [*leaves(data), *given, *gpus_given])
    data = lay_over(data, given)
    if data.get("model") is None:
        raise UsageError("no model is named", "try memprof estimate llama-13b; memprof models lists more")
    scenario = decode(data)
    return Described(scenario if gpus is None else _share_out(scenario, gpus), notes)


def _imported(configs: tuple[str, ...], given: list[tuple[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """What training configs say under all that is given otherwise, and what is to be said of the rest."""
    from memprof.importers.detect import import_config

    imported = import_config(*configs)
    overridden = {field for field, _ in given}
    imported.refuse(overridden)
    return lay_over(imported.data(), given), imported.warnings(overridden)


def _share_out(scenario: Scenario, gpus: int) -> Scenario:
    """``parallelism.data`` such that all degrees together take ``gpus``."""
    p = scenario.parallelism
    group = p.replicate * p.tensor * p.pipeline * p.context
    if gpus < 1:
        raise UsageError(f"--gpus must be >= 1, got {gpus}")
    if group < 1 or gpus % group:
        degrees = "replicate x tensor x pipeline x context"
        raise UsageError(f"{gpus} GPUs do not divide by {degrees} = {group}", "choose a multiple")
    if gpus > group and p.strategy == "none":
        raise UsageError(f"--gpus {gpus} says nothing of what they share", "add --strategy ddp, zero1 to zero3 or fsdp")
    return msgspec.structs.replace(scenario, parallelism=msgspec.structs.replace(p, data=gpus // group))


def _parameter(field: str) -> str:
    return field.replace(".", "_")

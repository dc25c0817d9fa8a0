"""Lines of ``record_runs.py``, the recorder that ``memprof verify`` replaces, as evidence.

A line is one case: its settings, its status, and the peaks of each phase of a first and a later step.
"""

from __future__ import annotations

from typing import Any

import msgspec

from memprof.catalog.device_catalog import device
from memprof.errors import DeviceError, MeasurementError, UnsupportedError
from memprof.model.decode import decode
from memprof.model.evidence import Environment, Evidence, Measurement, Status
from memprof.model.scenario import Scenario

_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Layers that the recorder puts LoRA on."""
_NEW_TOKENS = 32
_IMAGE_SIZE = 224
_CLASSIFIERS = ("bert-base", "bert-large")
_IMAGES = ("vit-base", "resnet-50", "convnext-tiny")
_IMPLEMENTATIONS = {"fused": "fused", "foreach": "foreach", "loop": "for-loop", "bnb": "auto"}
_KERNELS = {"math": "sdpa-math", "efficient": "sdpa-efficient", "flash": "sdpa-flash", "cudnn": "sdpa-cudnn"}
_CONFIGS: dict[str, dict[str, Any]] = {
    "mixtral-small": {
        "model_type": "mixtral", "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 16,
        "num_key_value_heads": 4, "intermediate_size": 3584, "num_local_experts": 8, "num_experts_per_tok": 2,
        "vocab_size": 32000, "use_cache": False,
    },
    "vit-base": {"model_type": "vit", "num_labels": 1000},
    "resnet-50": {"model_type": "resnet", "num_labels": 1000},
    "convnext-tiny": {"model_type": "convnext", "num_labels": 1000},
}  # fmt: skip
"""Models that no catalog has under the recorder's name, as it builds them."""


class Peaks(msgspec.Struct, frozen=True):
    """Bytes since the peaks were last reset."""

    allocated: int
    reserved: int
    live: int
    requested: int | None = None


class Case(msgspec.Struct, frozen=True):
    """The settings of a case; what is missing is the recorder's default."""

    model: str
    batch: int
    seq: int
    precision: str = "bf16"
    optimizer: str = "adamw"
    impl: str = "fused"
    ckpt: bool = False
    attention: str = "sdpa"
    lora: int = 0
    quant: str | None = None
    accumulate: int = 1
    mode: str = "train"
    world: int = 1
    strategy: str = "none"
    compile: str | None = None
    clip: float | None = None
    expandable: bool = False
    dropout: float | None = None
    keep_outputs: bool = False


class Line(msgspec.Struct, frozen=True):
    """What is read of a line; the rest of it is not needed."""

    id: str
    case: Case
    status: Status
    env: dict[str, Any] = {}
    error: str = ""
    num_parameters: int | None = None
    device_total_bytes: int | None = None
    after_load: Peaks | None = None
    first_step: dict[str, Peaks | None] | None = None
    steady_step: dict[str, Peaks | None] | None = None
    memory_stats: dict[str, int] = {}
    mem_get_info_used_bytes: int | None = None
    run_reserved_bytes: int | None = None
    host_rss_bytes: int | None = None
    step_s: dict[str, float] = {}


def decoded(line: bytes, where: str) -> Line:
    """A line of the recorder's file.

    Raises:
        MeasurementError: it is none.
    """
    try:
        return msgspec.json.decode(line, type=Line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MeasurementError(f"{where}: not a line of record_runs.py: {error}", "record the case again") from None


def evidence(line: Line) -> Evidence:
    """The record of a line.

    Raises:
        UnsupportedError: a run that shows no memory, or that is not what its settings say.
        DeviceError: a card that the catalog does not know.
        ConfigError: settings that no scenario has.
    """
    gpu = line.env.get("gpu")
    if gpu is None:
        raise UnsupportedError("it has no figures of a GPU", "record it where one is")
    name = _device_name(gpu)
    scenario = _scenario(line.case, name)
    config = _CONFIGS.get(line.case.model, {})
    _refuse_other_model(line, scenario, config)
    software = {key: value for key, value in line.env.items() if key not in ("gpu", "capability")}
    versions = {key: None if value is None else str(value) for key, value in software.items()}
    return Evidence(
        name=line.id,
        source="record_runs.py",
        environment=Environment(
            device=name, gpu=gpu, total_bytes=line.device_total_bytes, world_size=line.case.world, versions=versions
        ),
        scenario=scenario,
        model_config=config,
        status=line.status,
        message=line.error,
        measured=_measurement(line),
    )


def _device_name(gpu: str) -> str:
    try:
        return device(gpu).name
    except DeviceError:
        raise DeviceError(f"{gpu!r} is no device of the catalog", "add it to memprof/catalog/devices") from None


def _scenario(case: Case, device_name: str) -> Scenario:
    """The case in a scenario's words; weights are random, labels are the inputs."""
    training, image = case.mode == "train", case.model in _IMAGES
    batch: dict[str, Any] = {
        "micro_batch_size": case.batch,
        "gradient_accumulation_steps": case.accumulate,
        **({"image_size": _IMAGE_SIZE} if image else {"sequence_length": case.seq}),
        **({"target_length": case.seq} if case.model.startswith("t5") else {}),
        **({"new_tokens": _NEW_TOKENS} if case.mode == "generate" else {}),
    }
    fields: dict[str, Any] = {
        "model": case.model,
        "mode": "train" if training else "inference",
        "batch": batch,
        "precision": case.precision,
        "attention": _KERNELS.get(case.attention, case.attention),
        "quantization": case.quant,
        "parallelism": {"strategy": case.strategy, "data": case.world},
        "allocator": {"expandable_segments": case.expandable},
        "device": device_name,
    }
    if case.model in _CLASSIFIERS:
        fields["task"] = "sequence-classification"
    if image:
        fields["task"] = "image-classification"
    if training:
        fields["optimizer"] = {"name": case.optimizer, "implementation": _IMPLEMENTATIONS[case.impl]}
        fields["checkpointing"] = "full" if case.ckpt else "none"
        fields["loop"] = {"keep_outputs": case.keep_outputs, "clip_grad_norm": case.clip, "dropout": case.dropout}
    if case.lora:
        fields["adapter"] = {"rank": case.lora, "target_modules": _LINEAR}
    if case.compile:
        fields["compile"] = {"mode": case.compile}
    return decode(fields)


def _refuse_other_model(line: Line, scenario: Scenario, config: dict[str, Any]) -> None:
    """A dry run with ``--tiny`` builds smaller models under the same names; their number of parameters tells."""
    if config or line.num_parameters is None:
        return
    from memprof.catalog.resolve import resolve

    named = resolve(scenario.model, scenario.task).num_parameters
    if abs(line.num_parameters - named) > named // 100:
        raise UnsupportedError(
            f"its model has {line.num_parameters} parameters, {scenario.model} has {named}",
            "record it again without --tiny",
        )


def _measurement(line: Line) -> Measurement:
    """The highest of loading, the first step and a later one; building comes before and is no part of a scenario."""
    steps = {"first_step": line.first_step or {}, "step": line.steady_step or {}}
    if not line.after_load or not all(steps.values()):
        return Measurement(host_rss_bytes=line.host_rss_bytes)
    phases: dict[str, list[Peaks]] = {"load": [line.after_load]}
    for stage, parts in steps.items():
        for name, peaks in parts.items():
            if peaks is not None:
                for key in (stage, line.case.mode if name == "inference" else name.rstrip("0123456789")):
                    phases.setdefault(key, []).append(peaks)
    every = [peaks for found in phases.values() for peaks in found]
    seconds = line.step_s.get("median")
    num_tokens = line.case.batch * line.case.accumulate * (1 if line.case.model in _IMAGES else line.case.seq)
    used, reserved = line.mem_get_info_used_bytes, line.run_reserved_bytes
    return Measurement(
        peak_requested_bytes=max(_requested(peaks) for peaks in every),
        peak_allocated_bytes=max(peaks.allocated for peaks in every),
        peak_reserved_bytes=max(peaks.reserved for peaks in every),
        context_bytes=used - reserved if used is not None and reserved is not None else None,
        phase_peak_bytes={name: max(map(_requested, found)) for name, found in phases.items() if name != "end"},
        component_bytes={"weights": line.after_load.live} if line.case.strategy == "none" else {},
        num_alloc_retries=line.memory_stats.get("num_alloc_retries"),
        host_rss_bytes=line.host_rss_bytes,
        step_s=seconds,
        tokens_per_s=num_tokens / seconds if seconds else None,
    )


def _requested(peaks: Peaks) -> int:
    return peaks.allocated if peaks.requested is None else peaks.requested

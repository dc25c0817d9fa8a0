"""From a scenario to its workload: the model, then what is put around and into it, in the order of the libraries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from memprof.model.scenario import Quantization, Scenario
from memprof.semantics.precision import plan
from memprof.workload.checkpointing import checkpoint_blocks
from memprof.workload.lora import add_lora
from memprof.workload.workload import Workload


def build(scenario: Scenario, config: dict[str, Any] | None) -> Workload:
    """The scenario's workload; a Hugging Face model of ``config``, or the factory that ``scenario.model`` names.

    Raises:
        MemprofError: what cannot be built, and why.
    """
    if config is None:
        from memprof.workload.factory import from_factory

        return prepare(from_factory(scenario.model, scenario), scenario)
    from memprof.workload.huggingface import from_config

    return prepare(from_config(config, scenario), scenario)


def prepare(workload: Workload, scenario: Scenario) -> Workload:
    """Quantized, checkpointed and adapted, as the scenario says."""
    model = workload.model
    if scenario.quantization is not None:
        model = _quantized(model, scenario, scenario.quantization)
    checkpoint_blocks(model, scenario.checkpointing if scenario.mode == "train" else "none")
    if scenario.adapter is not None:
        if scenario.checkpointing != "none":
            model.enable_input_require_grads()
        model = add_lora(model, scenario.adapter, scenario.task)
    model.train(scenario.mode == "train")
    return replace(workload, model=model)


def _quantized(model: Any, scenario: Scenario, quantization: Quantization) -> Any:
    """With frozen quantized weights; for training also prepared as PEFT does it: the rest in float32."""
    import torch

    from memprof.workload.quantize import quantize

    quantize(model, quantization, getattr(torch, plan(scenario.precision, "none").compute))
    if scenario.mode == "train":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model

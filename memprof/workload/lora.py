"""LoRA through PEFT, as Trainer and TRL set it up."""

from __future__ import annotations

from typing import Any

from memprof.errors import ConfigError, ModelError
from memprof.model.scenario import Adapter

_TASKS = {
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
    "sequence-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
}


def add_lora(model: Any, adapter: Adapter, task: str | None) -> Any:
    """The model below PEFT's wrapper: its own weights frozen, low-rank pairs beside the target modules.

    Raises:
        ConfigError: PEFT is not installed.
        ModelError: no module has such a name, or PEFT knows none for this model.
    """
    try:
        import peft
    except ImportError:
        raise ConfigError(
            "adapter lora is PEFT's, which is not installed", "pip install 'memprof-gpu[torch]'"
        ) from None
    targets = adapter.target_modules
    settings = peft.LoraConfig(
        r=adapter.rank,
        lora_dropout=adapter.dropout,
        target_modules=targets[0] if targets == ("all-linear",) else list(targets) if targets else None,
        task_type=_TASKS.get(task or ""),
        fan_in_fan_out=_has_conv1d(model),
    )
    try:
        return peft.get_peft_model(model, settings)
    except ValueError as error:
        raise ModelError(f"PEFT: {str(error).splitlines()[0]}", "name the modules with --lora-targets") from error


def _has_conv1d(model: Any) -> bool:
    """Whether weights are kept transposed, as GPT-2's are."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())

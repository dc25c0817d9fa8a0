"""A Hugging Face model made from its config, with random weights, under the head of a task."""

from __future__ import annotations

from typing import Any

from memprof.errors import ModelError, UnsupportedError
from memprof.model.scenario import Scenario
from memprof.semantics.precision import plan
from memprof.workload.chunked_loss import chunk_loss
from memprof.workload.inputs import batch_of
from memprof.workload.workload import Workload, own_loss

_AUTO = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "image-classification": "AutoModelForImageClassification",
    "reward": "AutoModelForSequenceClassification",
}
_ATTENTION = {"eager": "eager", "flash-attn": "flash_attention_2"}
_RATES = (
    "attention_dropout", "attention_probs_dropout_prob", "attn_dropout", "attn_pdrop", "dropout", "dropout_rate",
    "embd_pdrop", "embed_dropout", "hidden_dropout", "hidden_dropout_prob", "resid_pdrop", "activation_dropout",
    "classifier_dropout", "drop_path_rate", "resid_dropout",
)  # fmt: skip


def from_config(config: dict[str, Any], scenario: Scenario) -> Workload:
    """The model of a config (``model_type`` and the rest of ``config.json``), and batches for it.

    Raises:
        ModelError: transformers does not know the model, or not with such a head.
    """
    import torch

    real = _config(config, scenario)
    rows = plan(scenario.precision, scenario.parallelism.strategy)
    model = build(real, scenario, getattr(torch, rows.compute if scenario.quantization else rows.weights))
    if scenario.mode == "train" and scenario.loss == "chunked":
        chunk_loss(model)
    return Workload(model=model, batch=lambda: batch_of(model, scenario), loss=own_loss)


def build(config: Any, scenario: Scenario, dtype: Any) -> Any:
    """The model of a transformers config object, its weights in ``dtype``, in train or eval mode.

    Raises:
        ModelError: the library refuses the config, the head or the attention.
    """
    import transformers

    chosen = _model_class(config, scenario)
    make = chosen.from_config if chosen.__name__.startswith("Auto") else chosen._from_config  # noqa: SLF001
    attention = _ATTENTION.get(scenario.attention)  # None: what the library chooses, sdpa where the model has it
    try:
        model = make(config, dtype=dtype, attn_implementation=attention)
    except (ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"transformers {transformers.__version__} cannot build this model: {reason}") from error
    return model.train(scenario.mode == "train")


def config_of(config: dict[str, Any]) -> Any:
    """The config object of transformers, its defaults filled in.

    Raises:
        ModelError: transformers does not know the model, or refuses a value.
        UnsupportedError: the model is code of its own.
    """
    import transformers

    model_type = config.get("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"transformers {transformers.__version__} knows no model type {model_type!r}",
            "update transformers, or write a factory and name it as package.module:factory",
        )
    if config.get("auto_map"):
        raise UnsupportedError(
            f"{model_type} brings code of its own, which memprof does not run",
            "write a factory that builds the model and name it as package.module:factory",
        )
    try:
        return transformers.CONFIG_MAPPING[model_type](**config)
    except (ValueError, TypeError) as error:
        raise ModelError(f"the config of {model_type} is not sound: {str(error).splitlines()[0]}") from error


def _config(config: dict[str, Any], scenario: Scenario) -> Any:
    real = config_of(config)
    if scenario.loop.dropout is not None:
        for name in _RATES:
            if hasattr(real, name):
                setattr(real, name, scenario.loop.dropout)
    if scenario.mode == "train":
        real.use_cache = False  # as Trainer sets it
    return real


def _model_class(config: Any, scenario: Scenario) -> Any:
    """The class that the config names, where it is of the task that is asked for; else the task's."""
    import transformers

    task = scenario.task
    if task in (None, "custom"):
        for name in config.architectures or ():
            if hasattr(transformers, name):
                return getattr(transformers, name)
        task = "causal-lm"
    if task not in _AUTO:
        raise UnsupportedError(f"the trace engine does not run the task {task}", f"choose {', '.join(_AUTO)}")
    return getattr(transformers, _AUTO[task])

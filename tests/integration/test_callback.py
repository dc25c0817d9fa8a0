"""The callback in a real Trainer on the CPU: what it logs, what it warns of, and how near the prediction is."""

from __future__ import annotations

import gc
import logging
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import memprof
from memprof.integrations.trainer_callback import MemprofCallback
from memprof.model.scenario import Batch, Scenario
from tests.support.referee import memory_events

VOCAB = 211
NEAR = 0.005
"""Measured: 0.15 %, the batch after this one, which the loader has ready."""


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=64, intermediate_size=136, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
        )
    )  # fmt: skip


def examples(lengths: list[int]) -> list[dict[str, Any]]:
    return [{"input_ids": [n % VOCAB for n in range(length)], "labels": [1] * length} for length in lengths]


def pad(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    return {
        key: torch.tensor([row[key] + [0] * (longest - len(row[key])) for row in rows])
        for key in ("input_ids", "labels")
    }


def train(folder: Path, callback: MemprofCallback, *, lengths: list[int], trained: Any = None, **arguments: Any) -> Any:
    settings = {
        "per_device_train_batch_size": 2, "max_steps": 3, "logging_steps": 1, "report_to": "none", "use_cpu": True,
        "save_strategy": "no", "disable_tqdm": True, "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
    } | arguments  # fmt: skip
    trainer = Trainer(
        model=trained or model(),
        args=TrainingArguments(output_dir=str(folder), **settings),
        train_dataset=examples(lengths),
        data_collator=pad,
        callbacks=[callback],
    )
    trainer.train()
    return trainer


def test_each_step_is_logged_as_predicted_and_as_it_was(tmp_path: Path) -> None:
    callback = MemprofCallback()
    trainer = train(tmp_path, callback, lengths=[8, 24, 16, 40, 32, 32])
    assert callback.watch is not None
    assert [step.batch for step in callback.watch.steps] == [
        Batch(micro_batch_size=2, sequence_length=length) for length in (24, 40, 32)
    ]
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry, step in zip(logged, callback.watch.steps, strict=True):
        assert step.predicted is not None
        assert entry["memprof/predicted_allocated_bytes"] == step.predicted.peak.allocated_bytes
        assert entry["memprof/resident_bytes"] > step.predicted.peak.allocated_bytes


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks so
@pytest.mark.parametrize(
    ("arguments", "lora"),
    [
        ({}, False),
        ({"optim": "adamw_torch", "bf16": True, "gradient_accumulation_steps": 2}, False),
        ({"activation_checkpointing": True, "optim": "sgd", "max_grad_norm": 0.0}, False),
        ({"bf16": True}, True),
    ],
    ids=["default", "bf16", "checkpointing", "lora"],
)
def test_the_prediction_is_near_what_the_trainer_allocates(
    tmp_path: Path, arguments: dict[str, Any], lora: bool
) -> None:
    """Of the Trainer's own arguments and model; resident is what is there before training."""
    torch.set_num_threads(1)
    callback, trained = MemprofCallback(), model()
    if lora:
        trained = get_peft_model(trained, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    resident = sum(tensor.nbytes for tensor in (*trained.parameters(), *trained.buffers()))
    gc.collect()  # Trainer does as it starts, and what earlier profiled runs left in cycles would count as freed
    events = memory_events(lambda: train(tmp_path, callback, lengths=[64] * 12, trained=trained, **arguments))
    highest = max(accumulate(events, initial=resident))
    assert callback.watch is not None
    predicted = callback.watch.steps[-1].predicted
    assert predicted is not None
    assert predicted.peak.allocated_bytes == pytest.approx(highest, rel=NEAR)


def test_the_longest_batch_is_warned_of_before_it_comes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = Scenario(model="llama-3.1-8b", precision="bf16", device="rtx-3060-12gb")
    callback = MemprofCallback(asked)
    with caplog.at_level(logging.WARNING, "memprof"):
        trainer = train(tmp_path, callback, lengths=[8, 24, 16, 8, 8, 90])
    said = next(record.getMessage() for record in caplog.records if "longest batch" in record.getMessage())
    assert said.startswith("the longest batch of the dataset (2 x 90) does not fit: it needs")
    assert said.endswith("that rtx-3060-12gb has")
    assert trainer.state.global_step == 3, "a warning stops nobody"


def test_a_model_that_is_not_modelled_is_trained_without_predictions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = MemprofCallback(Scenario(model="llama-3.1-8b", loss="fused", device="cpu"))
    with caplog.at_level(logging.WARNING, "memprof"):
        trainer = train(tmp_path, callback, lengths=[8] * 6)
    assert [record.getMessage()[:13] for record in caplog.records] == ["no prediction"]
    assert "memprof/resident_bytes" in trainer.state.log_history[0]
    assert "memprof/predicted_allocated_bytes" not in trainer.state.log_history[0]


def test_arguments_that_cannot_be_followed_say_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = MemprofCallback()
    with caplog.at_level(logging.WARNING, "memprof"):
        train(tmp_path, callback, lengths=[8] * 6, accelerator_config={"split_batches": True})
    assert callback.watch is None
    assert [record.getMessage()[:21] for record in caplog.records] == ["nothing is predicted:"]


def test_on_a_cpu_there_is_no_history_to_keep(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tape = tmp_path / "oom.tape"
    with caplog.at_level(logging.WARNING, "memprof"):
        train(tmp_path, MemprofCallback(tape=str(tape)), lengths=[8] * 6)
    assert "on a CPU there is no allocator history" in caplog.text
    assert not tape.exists()


def test_the_callback_is_there_without_importing_transformers_before() -> None:
    assert memprof.MemprofCallback is MemprofCallback
    with pytest.raises(AttributeError, match="no attribute 'callback'"):
        memprof.callback  # noqa: B018

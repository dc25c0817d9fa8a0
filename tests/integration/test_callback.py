"""The callback in a real Trainer on the CPU: what it logs, what it warns of, and how near the prediction is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DataCollatorWithPadding, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import memprof
from memprof.integrations.trainer_callback import MemprofCallback
from memprof.model.scenario import Batch, Scenario
from tests.support.memory_profile import memory_profile

VOCAB = 211


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

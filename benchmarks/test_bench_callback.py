"""What the callback adds to a training step on the CPU: its own time in each step, in the step's time without it.

Only the ratio is gated, of medians of CPU time within one run, so that a busy machine adds to both sides alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from memprof import MemprofCallback

MOST_OVERHEAD = 0.03
NUM_STEPS = 60
LENGTH = 64


class Timed(MemprofCallback):
    """Keeps the CPU time of each step, and that of its own events and hooks in it."""

    def __init__(self) -> None:
        super().__init__()
        self.own: list[float] = []
        self.steps: list[float] = []
        self._since = 0.0

    @contextmanager
    def _timed(self) -> Iterator[None]:
        since = time.thread_time()
        yield
        self.own[-1] += time.thread_time() - since

    def on_step_begin(self, *args: Any, **parts: Any) -> None:
        self.own.append(0.0)
        self._since = time.thread_time()
        with self._timed():
            super().on_step_begin(*args, **parts)

    def on_step_end(self, *args: Any, **parts: Any) -> None:
        with self._timed():
            super().on_step_end(*args, **parts)
        self.steps.append(time.thread_time() - self._since)

    def on_log(self, *args: Any, **parts: Any) -> None:
        with self._timed():
            super().on_log(*args, **parts)

    def _see(self, *args: Any) -> None:
        with self._timed():
            super()._see(*args)


def test_the_callback_costs_little_of_a_step(benchmark: Any, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=LENGTH,
    )  # fmt: skip
    row = {"input_ids": list(range(LENGTH)), "labels": list(range(LENGTH))}
    callback = Timed()
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=1, max_steps=NUM_STEPS, logging_steps=1,
        report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model=LlamaForCausalLM(config), args=arguments, train_dataset=[row] * NUM_STEPS, callbacks=[callback]
    )
    benchmark.pedantic(trainer.train, rounds=1)
    own, step = median(callback.own[5:]), median(callback.steps[5:])
    overhead = own / (step - own)
    benchmark.extra_info |= {"step_ms": round(step * 1e3, 2), "overhead": round(overhead, 4)}
    assert callback.watch is not None
    assert len(callback.watch.steps) == NUM_STEPS
    assert overhead <= MOST_OVERHEAD

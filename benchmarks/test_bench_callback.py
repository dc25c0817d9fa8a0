"""What the callback adds to a training step on the CPU: steps of one Trainer with it and without, in turn.

Only the ratio is gated. The least CPU time of many steps stands for each side, as a busy machine only ever adds to it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from memprof import MemprofCallback

MOST_OVERHEAD = 0.03
NUM_STEPS = 120
LENGTH = 64


class Alternating(MemprofCallback):
    """Sleeps in every second step, and keeps the CPU time of each step from begin to end, its own work included."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self._since = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        self._since = time.process_time()
        if self._is_awake(state.global_step):
            super().on_step_begin(args, state, control, **parts)

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        step = state.global_step - 1
        if self._is_awake(step):
            super().on_step_end(args, state, control, **parts)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **parts: Any) -> None:
        step = state.global_step - 1
        if self._is_awake(step):
            super().on_log(args, state, control, logs, **parts)
        self.seconds[self._is_awake(step)].append(time.process_time() - self._since)

    def _see(self, model: Any, positional: Any, inputs: Any) -> None:
        if self._is_awake(self.seconds_seen):
            super()._see(model, positional, inputs)

    @property
    def seconds_seen(self) -> int:
        return sum(map(len, self.seconds.values()))

    @staticmethod
    def _is_awake(step: int) -> bool:
        return step % 2 == 0


def least(seconds: list[float]) -> float:
    return min(seconds[5:])


def test_the_callback_costs_little_of_a_step(benchmark: Any, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=LENGTH,
    )  # fmt: skip
    row = {"input_ids": list(range(LENGTH)), "labels": list(range(LENGTH))}
    callback = Alternating()
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=1, max_steps=NUM_STEPS, logging_steps=1,
        report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model=LlamaForCausalLM(config), args=arguments, train_dataset=[row] * NUM_STEPS, callbacks=[callback]
    )
    benchmark.pedantic(trainer.train, rounds=1)
    with_it, without = least(callback.seconds[True]), least(callback.seconds[False])
    benchmark.extra_info |= {"step_ms": round(without * 1e3, 2), "overhead": round(with_it / without - 1, 4)}
    assert callback.watch is not None
    assert len(callback.watch.steps) == NUM_STEPS // 2
    assert with_it / without - 1 <= MOST_OVERHEAD

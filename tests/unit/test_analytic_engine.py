"""What the analytic engine refuses, and what it looks up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memprof import api
from memprof.errors import ConfigError, UnsupportedError
from memprof.model.decode import decode

SHARDED = {"strategy": "fsdp", "data": 8}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": "bert-base-uncased"}, "no program for bert models"),
        ({"task": "sequence-classification"}, "task sequence-classification"),
        ({"parallelism": {**SHARDED, "tensor": 2}}, "parallelism.tensor > 1"),
        ({"parallelism": {**SHARDED, "pipeline": 2}}, "parallelism.pipeline > 1"),
        ({"parallelism": {**SHARDED, "context": 2}}, "parallelism.context > 1"),
        ({"parallelism": {**SHARDED, "expert": 2}}, "parallelism.expert > 1"),
        ({"compile": {"mode": "default"}}, "compile"),
        ({"parallelism": SHARDED, "offload": ["optimizer", "parameters"]}, "offload"),
        ({"loss": "fused"}, "loss fused"),
        ({"loss": "chunked", "parallelism": {"strategy": "zero2", "data": 8}}, "loss chunked under zero2"),
        ({"checkpointing": "selective"}, "selective checkpointing"),
        ({"checkpointing": {"every": 2}}, "selective checkpointing"),
        ({"loop": {"keep_outputs": True}, "batch": {"gradient_accumulation_steps": 2}}, "loop.keep_outputs"),
        ({"quantization": "nf4", "adapter": {"rank": 8}, "parallelism": SHARDED}, "nf4 weights sharded by fsdp"),
        ({"mode": "inference", "parallelism": SHARDED}, "parallelism in inference"),
    ],
)
def test_what_is_not_modelled_is_an_error_that_says_so(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UnsupportedError, match=what):
        api.estimate(decode({"model": "gpt2", **changes}), engine="analytic")


@pytest.mark.parametrize(
    ("batch", "length"), [({}, 1024), ({"sequence_length": 7}, 7), ({"sequence_length": 1000, "new_tokens": 24}, 1000)]
)
def test_the_sequence_length_is_resolved(batch: dict[str, int], length: int) -> None:
    result = api.estimate(decode({"model": "gpt2", "mode": "inference", "batch": batch}))
    assert result.scenario["batch"]["sequence_length"] == length


def test_a_default_prompt_leaves_room_for_new_tokens() -> None:
    result = api.estimate(decode({"model": "gpt2", "mode": "inference", "batch": {"new_tokens": 100}}))
    assert result.scenario["batch"]["sequence_length"] == 924


@pytest.mark.parametrize("batch", [{"sequence_length": 1025}, {"sequence_length": 1000, "new_tokens": 25}])
def test_more_tokens_than_positions_are_refused(batch: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="beyond the 1024 positions of gpt2"):
        api.estimate(decode({"model": "gpt2", "mode": "inference", "batch": batch}))


def test_a_config_file_that_changes_is_read_again(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    counts = []
    for layers in (1, 2):
        config.write_text(json.dumps({"model_type": "gpt2", "n_layer": layers}), encoding="utf-8")
        counts.append(api.estimate(decode({"model": str(config)})).num_parameters)
    assert counts[0] < counts[1]


@pytest.mark.parametrize("task", ["dpo", "ppo", "grpo", "reward"])
def test_a_step_of_more_than_one_forward_is_refused(task: str) -> None:
    with pytest.raises(UnsupportedError, match=f"task {task} runs more than one forward"):
        api.estimate(decode({"model": "gpt2", "task": task}))

"""The DeepSpeed config that a scenario stands for, and what is refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memprof.errors import ConfigError, UnsupportedError
from memprof.importers.detect import import_config
from memprof.measure.ranks import refuse_unrun
from memprof.model.scenario import Batch, Loop, Parallelism, Precision, Scenario, Zero, to_builtins
from memprof.workload import deepspeed

SIZES = Zero(reduce_bucket_size=1000, overlap_comm=False, prefetch_bucket_size=2000, max_live_parameters=3000)


def scenario(precision: Precision = "bf16-mixed", zero: Zero | None = SIZES) -> Scenario:
    return Scenario(
        model="x",
        precision=precision,
        batch=Batch(micro_batch_size=2, gradient_accumulation_steps=3),
        loop=Loop(clip_grad_norm=0.5),
        parallelism=Parallelism(strategy="zero3", data=2, zero=zero),
    )


def test_a_config_says_all_that_the_scenario_does() -> None:
    config = deepspeed.config(scenario(), None)
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 3
    assert config["gradient_clipping"] == 0.5
    assert config["bf16"] == {"enabled": True}
    zero = config["zero_optimization"]
    assert (zero["stage"], zero["reduce_bucket_size"], zero["overlap_comm"]) == (3, 1000, False)
    assert (zero["stage3_prefetch_bucket_size"], zero["stage3_max_live_parameters"]) == (2000, 3000)


def test_pure_bf16_keeps_masters_and_states_in_it() -> None:
    assert deepspeed.config(scenario("bf16"), None)["bf16"] == {
        "enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True
    }  # fmt: skip
    assert not {"bf16", "fp16"} & set(deepspeed.config(scenario("fp32"), None))


def test_auto_sizes_come_from_the_model() -> None:
    zero = Zero(reduce_bucket_size="auto")
    assert deepspeed.config(scenario(zero=zero), 16)["zero_optimization"]["reduce_bucket_size"] == 256
    with pytest.raises(ConfigError, match="the model names none"):
        deepspeed.config(scenario(zero=zero), None)


def test_a_config_imported_again_gives_the_same_sizes(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(deepspeed.config(scenario(), None)))
    fields = {setting.field: setting.value for setting in import_config(str(path)).settings}
    sizes = {f"parallelism.zero.{name}": size for name, size in to_builtins(scenario())["parallelism"]["zero"].items()}
    assert {name: fields[name] for name in sizes} == sizes


def test_where_deepspeed_is_not_installed_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as refused:
        refuse_unrun(scenario().parallelism, alone=False)
    assert str(refused.value) == "ZeRO is DeepSpeed's, which is not installed; pip install deepspeed"


def test_one_process_is_told_to_start_its_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed, "find_spec", lambda name: name)
    refuse_unrun(scenario().parallelism, alone=False)
    with pytest.raises(UnsupportedError, match="torchrun --nproc-per-node 2"):
        refuse_unrun(scenario().parallelism, alone=True)

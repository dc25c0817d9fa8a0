from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from memprof.errors import ConfigError
from memprof.importers.detect import KINDS, detect, import_config
from memprof.importers.documents import Document
from memprof.importers.imported import Imported
from memprof.model.scenario import Scenario

FILES = itertools.count()


@pytest.fixture
def importing(tmp_path: Path) -> Any:
    """Imports mappings as if each were a file."""

    def imported(*files: dict[str, Any]) -> Imported:
        paths = []
        for data in files:
            path = tmp_path / f"{next(FILES)}.yaml"
            path.write_text(yaml.safe_dump(data, sort_keys=False))
            paths.append(str(path))
        return import_config(*paths)

    return imported


def fields(imported: Imported) -> dict[str, Any]:
    return {d.field: d.value for d in imported.defaults} | {s.field: s.value for s in imported.settings}


ARGS = {"model_name_or_path": "gpt2", "output_dir": "out"}
ZERO2 = {"zero_optimization": {"stage": 2}}


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"distributed_type": "NO"}, "accelerate"),
        (ZERO2, "deepspeed"),
        ({"base_model": "gpt2", "output_dir": "x"}, "axolotl"),
        ({"model_name_or_path": "gpt2", "stage": "sft", "output_dir": "x"}, "llama-factory"),
        ({"model": "gpt2", "dist_config": {"name": "fsdp2"}, "cutoff_len": 64}, "llama-factory-v1"),
        ({"model": "gpt2", "train_dataset": "data.yaml", "bf16": True, "output_dir": "x"}, "llama-factory-v1"),
        ({"model": {"name": "llama3"}, "job": {}}, "torchtitan"),
        ({"model": {"_component_": "x"}, "batch_size": 1}, "torchtune"),
        ({"model_name_or_path": "gpt2", "max_length": 512}, "sft"),
        (ARGS, "training-arguments"),
    ],
)
def test_a_file_is_known_by_its_keys(data: dict[str, Any], kind: str) -> None:
    assert detect(Document(path="x", data=data, lines={})) == kind


def test_each_kind_has_a_module_that_reads_it() -> None:
    for kind in KINDS:
        with pytest.raises(ConfigError, match=r"holds no fields|cannot be read"):
            import_config(f"{kind}:missing.yaml")


@pytest.mark.parametrize(
    ("weights", "mixed", "extra", "precision"),
    [
        (None, {"bf16": True}, {}, "bf16-mixed"),
        (None, {"fp16": True}, {}, "fp16-mixed"),
        (None, {}, {}, "fp32"),
        ("auto", {"bf16": True}, {}, "bf16-mixed"),
        ("bfloat16", {"bf16": True}, {}, "bf16"),
        ("bfloat16", {}, {}, "bf16"),
        ("torch.float16", {}, {}, "fp16"),
        ("float32", {"bf16": True}, {}, "bf16-mixed"),
        ("bfloat16", {"bf16": True}, {"load_in_4bit": True, "use_peft": True}, "bf16-mixed"),
        ("bfloat16", {"bf16": True}, {"fsdp": True}, "bf16-mixed"),
        ("bfloat16", {"bf16": True}, {"deepspeed": ZERO2}, "bf16-mixed"),
        ("bfloat16", {}, {"deepspeed": ZERO2}, "bf16"),
        ("float16", {"fp16": True}, {"use_peft": True}, "fp16"),
    ],
)
def test_precision_follows_from_arithmetic_weights_and_who_shards(
    importing: Any, weights: str | None, mixed: dict[str, Any], extra: dict[str, Any], precision: str
) -> None:
    data = {**ARGS, **mixed, **extra, **({"dtype": weights} if weights else {})}
    assert fields(importing(data))["precision"] == precision


def test_a_scaler_over_float16_weights_is_refused_as_torch_does(importing: Any) -> None:
    with pytest.raises(ConfigError, match="gradient scaler refuses float16 weights"):
        importing({**ARGS, "dtype": "float16", "fp16": True})


def test_the_arguments_beat_the_launchers_mixed_precision(importing: Any) -> None:
    launcher = {"distributed_type": "MULTI_GPU", "num_processes": 2, "mixed_precision": "bf16"}
    for files in ((launcher, {**ARGS, "fp16": True}), ({**ARGS, "fp16": True}, launcher)):
        assert fields(importing(*files))["precision"] == "fp16-mixed"
    assert fields(importing(launcher, {**ARGS, "bf16": False}))["precision"] == "bf16-mixed"


def test_deepspeeds_precision_must_agree(importing: Any) -> None:
    with pytest.raises(ConfigError, match=r"bf16.enabled says bf16|says fp16"):
        importing({**ARGS, "fp16": True}, {**ZERO2, "bf16": {"enabled": True}})


def test_deepspeeds_optimizer_beats_optim(importing: Any) -> None:
    optimizer = {"type": "Lion", "params": {"lr": "auto"}}
    found = fields(importing({**ARGS, "optim": "adamw_torch"}, {**ZERO2, "optimizer": optimizer}))
    assert found["optimizer.name"] == "lion"
    assert found["optimizer.implementation"] == "auto"


def test_whoever_asks_for_checkpointing_gets_it(importing: Any) -> None:
    launcher = {"distributed_type": "FSDP", "num_processes": 2, "fsdp_config": {"fsdp_activation_checkpointing": True}}
    found = importing({**ARGS, "gradient_checkpointing": False}, launcher)
    assert fields(found)["checkpointing"] == "full"
    assert found.setting("checkpointing").key == "fsdp_config.fsdp_activation_checkpointing"


def test_two_that_shard_differently_are_refused(importing: Any) -> None:
    launcher = {"distributed_type": "FSDP", "num_processes": 2, "mixed_precision": "bf16"}
    with pytest.raises(
        ConfigError,
        match=r"yaml:1: distributed_type says fsdp, but .*yaml:5: deepspeed.zero_optimization.stage says zero2",
    ):
        importing(launcher, {**ARGS, "deepspeed": ZERO2})


@pytest.mark.parametrize(
    ("world", "config", "expected"),
    [
        (8, {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 2}, (2, 4, 8)),
        (8, {"train_batch_size": 64, "gradient_accumulation_steps": 4}, (2, 4, 8)),
        (8, {"train_batch_size": 64}, (8, 1, 8)),
        (
            None,
            {"train_batch_size": 6, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 2},
            (1, 2, 3),
        ),
    ],
)
def test_what_is_missing_follows_from_the_whole_batch(
    importing: Any, world: int | None, config: dict[str, int], expected: tuple[int, int, int]
) -> None:
    launcher = {"distributed_type": "DEEPSPEED", "num_processes": world, "deepspeed_config": {"zero_stage": 2}}
    files = [{**ZERO2, **config}, *([launcher] if world else [])]
    found = fields(importing(*files))
    names = ("batch.micro_batch_size", "batch.gradient_accumulation_steps", "parallelism.data")
    assert tuple(found[name] for name in names) == expected


def test_a_file_beside_the_one_that_names_it_beats_one_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "train.yaml").write_text("output_dir: out\ndeepspeed: ds.json\n")
    (tmp_path / "here" / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    assert fields(import_config("../train.yaml"))["parallelism.strategy"] == "zero3"
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    assert fields(import_config("../train.yaml"))["parallelism.strategy"] == "zero2"


def test_a_count_that_cannot_be_is_left_to_be_refused(importing: Any) -> None:
    assert fields(importing({**ZERO2, "train_micro_batch_size_per_gpu": 0}))["batch.micro_batch_size"] == 0


def test_a_whole_batch_that_cannot_be_is_refused(importing: Any) -> None:
    config = {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 3, "gradient_accumulation_steps": 2}
    with pytest.raises(ConfigError, match=r"train_batch_size 64 is not micro-batch x accumulation x GPUs = 3 x 2 x \?"):
        importing({**ZERO2, **config})


def test_gpus_beyond_the_other_degrees_share_data(importing: Any) -> None:
    launcher = {"distributed_type": "FSDP", "num_processes": 16, "mixed_precision": "bf16"}
    degrees = {"parallelism_config_tp_size": 2, "parallelism_config_cp_size": 4}
    assert fields(importing({**launcher, "parallelism_config": degrees}))["parallelism.data"] == 2
    with pytest.raises(ConfigError, match="16 does not divide by the other degrees, 3"):
        importing({**launcher, "parallelism_config": {"parallelism_config_tp_size": 3}})


def test_hybrid_shards_are_replicated_over_machines(importing: Any) -> None:
    plugin = {"fsdp_sharding_strategy": "HYBRID_SHARD", "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}
    launcher = {"distributed_type": "FSDP", "num_machines": 2, "num_processes": 16, "fsdp_config": plugin}
    scenario = importing({**launcher, "mixed_precision": "bf16"}, ARGS).scenario()
    assert scenario.parallelism.strategy == "hsdp"
    assert (scenario.parallelism.replicate, scenario.parallelism.data) == (2, 8)


def test_offload_of_both_is_one_field(importing: Any) -> None:
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "nvme"}}
    assert fields(importing({"zero_optimization": zero}))["offload"] == ["optimizer", "parameters"]
    none = {"stage": 3, "offload_optimizer": {"device": "none"}}
    assert "offload" not in fields(importing({"zero_optimization": none}))


def test_a_named_file_is_sought_beside_the_one_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    (tmp_path / "train.yaml").write_text("model_name_or_path: gpt2\noutput_dir: out\ndeepspeed: ds.json\n")
    imported = import_config(str(tmp_path / "train.yaml"))
    assert imported.setting("parallelism.strategy").where == f"{tmp_path / 'ds.json'}:1"
    assert imported.kinds == ("training-arguments", "deepspeed")


def test_a_named_file_outside_the_root_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    (tmp_path / "ds.json").write_text("{}")
    (root / "train.yaml").write_text("output_dir: out\ndeepspeed: ../ds.json\n")
    with pytest.raises(ConfigError, match="lies outside"):
        import_config(str(root / "train.yaml"), root=str(root))


def test_a_config_within_a_file_has_that_files_lines(tmp_path: Path) -> None:
    path = str(tmp_path / "train.yaml")
    Path(path).write_text("output_dir: out\ndeepspeed:\n  steps_per_print: 1\n  zero_optimization:\n    stage: 2\n")
    imported = import_config(path)
    setting = imported.setting("parallelism.strategy")
    assert setting is not None
    assert (setting.line, setting.key) == (5, "deepspeed.zero_optimization.stage")
    assert imported.ignored == {path: ("output_dir", "deepspeed.steps_per_print")}
    Path(path).write_text("output_dir: out\ndeepspeed:\n  zero_optimization:\n    stage: 9\n")
    with pytest.raises(ConfigError, match=r"train\.yaml:4: deepspeed\.zero_optimization\.stage must be"):
        import_config(path)


def test_a_misspelt_key_is_told_so(importing: Any) -> None:
    warnings = importing({**ARGS, "gradient_chekpointing": True}).warnings()
    assert any("gradient_chekpointing true: ignored; did you mean gradient_checkpointing?" in w for w in warnings)


def test_names_from_a_file_are_shown_without_control_characters(importing: Any) -> None:
    warnings = " ".join(importing({**ARGS, "\x1b[31m\n": 1, "optim": "adafactor", "fsdp": "\x1b"}).warnings())
    assert warnings.isprintable()
    assert "\\x1b[31m" in warnings


def test_many_keys_are_counted_not_listed_soon(importing: Any) -> None:
    start = time.monotonic()
    imported = importing({**ARGS, **{f"gradient_checkpointin{n}": n for n in range(8_000)}})
    assert sum(map(len, imported.ignored.values())) == 8_001
    assert any(warning.endswith(" and 7,941 more") for warning in imported.warnings())
    assert time.monotonic() - start < 10


def test_long_values_are_read_whole(importing: Any) -> None:
    name = "m" * 200
    assert fields(importing({**ARGS, "model_name_or_path": name}))["model"] == name


def test_what_is_set_otherwise_is_not_spoken_of(importing: Any) -> None:
    imported = importing({**ARGS, "optim": "lomo"})
    assert not any("lomo" in warning for warning in imported.warnings())
    with pytest.raises(ConfigError, match="lomo"):
        imported.refuse({"optimizer.implementation"})
    imported.refuse({"optimizer.name"})
    assert "batch" in " ".join(imported.warnings())
    assert "batch" not in " ".join(imported.warnings({"batch"}))


def test_a_scenario_comes_out(importing: Any) -> None:
    scenario = importing({**ARGS, "bf16": True}).scenario()
    assert isinstance(scenario, Scenario)
    assert (scenario.model, scenario.precision) == ("gpt2", "bf16-mixed")

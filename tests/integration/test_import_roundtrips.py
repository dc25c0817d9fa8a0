"""The libraries' own objects take the same files, and mean by them what memprof reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins

from memprof.errors import ConfigError, UnsupportedError
from memprof.importers.detect import import_config
from memprof.importers.documents import read
from memprof.importers.huggingface import OPTIMIZERS, SHARDING
from memprof.model.scenario import Scenario, Zero
from memprof.semantics import zero as rules

FOLDER = Path("tests/integration/configs")
ACCELERATE = sorted(FOLDER.glob("accelerate_*.yaml"))
DEEPSPEED = sorted(FOLDER.glob("deepspeed_*.json"))

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """The libraries write their settings into the environment."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def training_arguments(data: dict[str, Any]) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(**{k: v for k, v in data.items() if k != "model_name_or_path"}, use_cpu=True)


def meant(arguments: Any) -> dict[str, Any]:
    """Dotted fields of what transformers made of a file."""
    name, implementation = OPTIMIZERS[arguments.optim.value]
    mixed = "bf16-mixed" if arguments.bf16 else "fp16-mixed" if arguments.fp16 else "fp32"
    return {
        "batch.micro_batch_size": arguments.per_device_train_batch_size,
        "batch.gradient_accumulation_steps": arguments.gradient_accumulation_steps,
        "optimizer.name": name,
        "optimizer.implementation": implementation,
        "optimizer.weight_decay": arguments.weight_decay,
        "loop.clip_grad_norm": arguments.max_grad_norm or None,
        "checkpointing": "full" if arguments.activation_checkpointing else "none",
        "precision": mixed,
    }


def said(*files: str) -> dict[str, Any]:
    imported = import_config(*files)
    return {d.field: d.value for d in imported.defaults} | {s.field: s.value for s in imported.settings}


@pytest.mark.parametrize("name", ["training_arguments.yaml", "training_arguments.json"])
def test_training_arguments_mean_what_transformers_makes_of_them(name: str) -> None:
    pytest.importorskip("transformers")
    path = str(FOLDER / name)
    data = {key: value for key, value in read(path).data.items() if key != "use_cpu"}
    assert meant(training_arguments(data)).items() <= said(path).items()


def test_what_no_file_says_is_what_transformers_takes(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    path = written(tmp_path, "train.yaml", "output_dir: out\n")
    assert meant(training_arguments({"output_dir": "out"})).items() <= said(path).items()


def test_every_optimizer_of_transformers_is_known_or_refused(tmp_path: Path) -> None:
    names = {name.value for name in pytest.importorskip("transformers.training_args").OptimizerNames}
    assert set(OPTIMIZERS) <= names
    for name in names:
        imported = import_config(written(tmp_path, "train.yaml", f"model_name_or_path: gpt2\noptim: {name}\n"))
        if name in OPTIMIZERS:
            assert imported.scenario().optimizer.name == OPTIMIZERS[name][0]
        else:
            with pytest.raises(UnsupportedError, match=f"train.yaml:2: optim {name}"):
                imported.scenario()


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerates_own_config_class_takes_the_file(path: Path) -> None:
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    config = config_args.load_config_from_file(str(path))
    fields = said(str(path))
    assert fields["parallelism.data"] == config.num_processes
    mixed = {"bf16": "bf16-mixed", None: "fp32"}[config.mixed_precision]
    assert fields["precision"] == mixed
    kind = fields["parallelism.strategy"]
    strategy = {"MULTI_GPU": "ddp", "FSDP": "fsdp", "DEEPSPEED": kind if kind.startswith("zero") else None}
    assert kind == strategy[config.distributed_type.value]


def test_every_sharding_of_accelerate_is_known() -> None:
    constants = pytest.importorskip("accelerate.utils.constants")
    for number, name in enumerate(constants.FSDP_SHARDING_STRATEGY, start=1):
        assert SHARDING[name.lower()] == SHARDING[str(number)]


def test_auto_values_are_those_that_transformers_fills_in(tmp_path: Path) -> None:
    integration = pytest.importorskip("transformers.integrations.deepspeed")
    pytest.importorskip("deepspeed")
    path, training = str(FOLDER / "deepspeed_zero3_auto.json"), str(FOLDER / "training_arguments.yaml")
    arguments = training_arguments(read(training).data)
    resolved = integration.HfTrainerDeepSpeedConfig(read(path).data)
    resolved.trainer_config_process(arguments)
    resolved.trainer_config_finalize(arguments, _Model, 100)
    config, fields = resolved.config, said(path, training)
    assert fields["batch.micro_batch_size"] == config["train_micro_batch_size_per_gpu"]
    assert fields["batch.gradient_accumulation_steps"] == config["gradient_accumulation_steps"]
    assert fields["loop.clip_grad_norm"] == config["gradient_clipping"]
    assert fields["precision"] == {(True, False): "bf16-mixed"}[config["bf16"]["enabled"], config["fp16"]["enabled"]]
    autos = ("reduce_bucket_size", "prefetch_bucket_size", "param_persistence_threshold")
    assert all(fields[f"parallelism.zero.{name}"] == "auto" for name in autos)
    sizes = rules.resolved(Zero(**dict.fromkeys(autos, "auto")), _Model.config.hidden_size)
    zero = config["zero_optimization"]
    assert zero["reduce_bucket_size"] == sizes.reduce_bucket_size
    assert zero["stage3_prefetch_bucket_size"] == sizes.prefetch_bucket_size
    assert zero["stage3_param_persistence_threshold"] == sizes.param_persistence_threshold


class _Model:
    class config:  # noqa: N801 - as a model has it
        hidden_size = 3584


@pytest.mark.parametrize(
    ("deepspeed", "arguments"),
    [
        ('"train_micro_batch_size_per_gpu": 4', "per_device_train_batch_size: 4"),
        ('"train_micro_batch_size_per_gpu": 4', "per_device_train_batch_size: 2"),
        ('"train_micro_batch_size_per_gpu": 4', "learning_rate: 1.0e-5"),
        ('"train_micro_batch_size_per_gpu": 8', "learning_rate: 1.0e-5"),
        ('"gradient_accumulation_steps": 2', "gradient_accumulation_steps: 3"),
        ('"gradient_clipping": 1.0', "learning_rate: 1.0e-5"),
        ('"gradient_clipping": 0.5', "learning_rate: 1.0e-5"),
        ('"gradient_clipping": "auto"', "max_grad_norm: 0.5"),
        ('"optimizer": {"type": "AdamW", "params": {"weight_decay": 0.1}}', "weight_decay: 0.0"),
        ('"optimizer": {"type": "AdamW", "params": {"weight_decay": "auto"}}', "weight_decay: 0.1"),
    ],
)
def test_files_that_contradict_each_other_are_refused_where_transformers_does(
    tmp_path: Path, deepspeed: str, arguments: str
) -> None:
    integration = pytest.importorskip("transformers.integrations.deepspeed")
    pytest.importorskip("deepspeed")
    config = written(tmp_path, "ds.json", '{"zero_optimization": {"stage": 2}, ' + deepspeed + "}")
    training = written(tmp_path, "train.yaml", f"output_dir: out\n{arguments}\n")
    parsed = training_arguments(read(training).data)
    resolved = integration.HfTrainerDeepSpeedConfig(read(config).data)
    resolved.trainer_config_process(parsed)
    try:
        resolved.trainer_config_finalize(parsed, _Model, 100)
    except ValueError:
        with pytest.raises(ConfigError, match=r"ds\.json"):
            import_config(config, training)
    else:
        assert import_config(config, training).settings


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeeds_own_config_takes_the_file(path: Path) -> None:
    zero_config = pytest.importorskip("deepspeed.runtime.zero.config")
    zero = zero_config.DeepSpeedZeroConfig(**read(str(path)).data["zero_optimization"])
    fields = said(str(path))
    assert fields["parallelism.strategy"] == f"zero{int(zero.stage)}"
    offloaded = [
        name
        for name, config in (("optimizer", zero.offload_optimizer), ("parameters", zero.offload_param))
        if config is not None and config.device != "none"
    ]
    assert fields.get("offload", []) == offloaded


def test_the_buffers_that_are_estimated_are_deepspeeds_defaults() -> None:
    defaults = pytest.importorskip("deepspeed.runtime.zero.config").DeepSpeedZeroConfig()
    for name, size in to_builtins(rules.DEFAULTS).items():
        assert getattr(defaults, name) == (False if name == "overlap_comm" else size)  # of stage 0


@pytest.mark.parametrize("name", ["sft_full.yaml", "sft_qlora.yaml"])
def test_trls_own_configs_take_the_file(name: str) -> None:
    trl = pytest.importorskip("trl")
    from transformers import HfArgumentParser

    path = str(FOLDER / name)
    data = {**read(path).data, "use_cpu": True}
    sft, model = HfArgumentParser((trl.SFTConfig, trl.ModelConfig)).parse_dict(data)
    fields = said(path)
    expected = meant(sft) | {"batch.sequence_length": sft.max_length, "model": model.model_name_or_path}
    if not model.load_in_4bit:
        expected["precision"] = "bf16"  # as the model is loaded in bfloat16
    if model.use_peft:
        expected |= {"adapter.rank": model.lora_r, "adapter.dropout": model.lora_dropout}
        expected["adapter.target_modules"] = model.lora_target_modules
    assert expected.items() <= fields.items()


def test_what_no_file_says_is_what_trl_takes(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    path = written(tmp_path, "sft.yaml", "model_name_or_path: gpt2\npacking: false\nuse_peft: true\n")
    sft, model, fields = trl.SFTConfig(output_dir="out", use_cpu=True), trl.ModelConfig(), said(path)
    expected = meant(sft) | {"batch.sequence_length": sft.max_length}
    expected |= {"adapter.rank": model.lora_r, "adapter.dropout": model.lora_dropout}
    assert expected.items() <= fields.items()


def test_what_no_file_says_is_what_torchtitan_takes(tmp_path: Path) -> None:
    job = pytest.importorskip("torchtitan.config.job_config").JobConfig()
    path = written(tmp_path, "job.toml", '[model]\nname = "llama3"\nflavor = "8B"\n[job]\nprint_config = true\n')
    option = job.activation_checkpoint.selective_ac_option
    assert said(path) == {
        "model": "llama-3.1-8b",
        "batch.micro_batch_size": job.training.local_batch_size,
        "batch.sequence_length": job.training.seq_len,
        "loop.clip_grad_norm": job.training.max_norm,
        "precision": {("float32", "bfloat16"): "bf16-mixed"}[job.training.dtype, job.training.mixed_precision_param],
        "optimizer.name": job.optimizer.name.lower(),
        "optimizer.implementation": job.optimizer.implementation,
        "optimizer.weight_decay": job.optimizer.weight_decay,
        "parallelism.strategy": {(1, -1): "fsdp"}[
            job.parallelism.data_parallel_replicate_degree, job.parallelism.data_parallel_shard_degree
        ],
        "checkpointing": {"every": int(option)},
    }
    assert job.activation_checkpoint.mode == "selective"


def test_what_no_file_says_is_what_llama_factory_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    hparams = pytest.importorskip("llamafactory.hparams")
    path = written(tmp_path, "train.yaml", "model_name_or_path: gpt2\nstage: sft\nbf16: true\n")
    tuning, data, model = hparams.FinetuningArguments(), hparams.DataArguments(), hparams.ModelArguments("gpt2")
    assert {
        "adapter.rank": tuning.lora_rank,
        "adapter.dropout": tuning.lora_dropout,
        "adapter.target_modules": {"all": ["all-linear"]}[",".join(tuning.lora_target)],
        "batch.sequence_length": data.cutoff_len,
        "checkpointing": "none" if model.disable_gradient_checkpointing else "full",
        "attention": {"auto": "sdpa"}[model.flash_attn.value],
    }.items() <= said(path).items()


def test_what_no_file_says_is_what_axolotl_takes(tmp_path: Path) -> None:
    fields = pytest.importorskip("axolotl.utils.schemas.config").AxolotlInputConfig.model_fields
    path = written(tmp_path, "train.yaml", "base_model: gpt2\n")
    name, implementation = OPTIMIZERS[fields["optimizer"].default]
    assert {
        "batch.micro_batch_size": fields["micro_batch_size"].default,
        "batch.gradient_accumulation_steps": fields["gradient_accumulation_steps"].default,
        "batch.sequence_length": fields["sequence_len"].default,
        "optimizer.name": name,
        "optimizer.implementation": implementation,
        "optimizer.weight_decay": fields["weight_decay"].default,
        "checkpointing": "full" if fields["gradient_checkpointing"].default else "none",
        "precision": {"auto": "bf16"}[fields["bf16"].default],
    }.items() <= said(path).items()


def test_fields_that_importers_set_are_a_scenarios(tmp_path: Path) -> None:
    """Each file's fields decode; a fact that no rule turned into a field would not."""
    for path in sorted(FOLDER.glob("*.[jty]*")):
        assert {field.split(".")[0] for field in said(str(path))} <= set(Scenario.__struct_fields__)

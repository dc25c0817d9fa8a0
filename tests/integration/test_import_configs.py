"""Each project's config, with the keys of its public examples: what it becomes, and what is said to be left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from memprof import api
from memprof.errors import MemprofError, UnsupportedError
from memprof.importers.detect import import_config
from memprof.importers.imported import Imported
from memprof.importers.overrides import lay_over
from memprof.model.decode import decode

FOLDER = Path("tests/integration/configs")
MODEL = {"model": "llama-3.2-1b"}
"""For files that name none."""


class Case(NamedTuple):
    """A file: what it says (dotted), the keys it is warned that have no part, and what lets it be estimated."""

    fields: dict[str, Any]
    ignored: str
    given: Mapping[str, Any] = MappingProxyType({})
    refused: str | None = None


PEFT_ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ZERO_3_AUTO = {
    "parallelism.zero.overlap_comm": False,
    "parallelism.zero.sub_group_size": 1_000_000_000,
    "parallelism.zero.reduce_bucket_size": "auto",
    "parallelism.zero.prefetch_bucket_size": "auto",
    "parallelism.zero.param_persistence_threshold": "auto",
    "parallelism.zero.max_live_parameters": 1_000_000_000,
    "parallelism.zero.max_reuse_distance": 1_000_000_000,
}
"""What deepspeed_zero3_auto.json says of buffers."""
ADAMW_OF_TORCH = {
    "optimizer.name": "adamw",
    "optimizer.implementation": "foreach",
    "optimizer.weight_decay": 0.01,
}
"""As torch.optim makes it when it is told the learning rate alone."""
CASES = {
    "accelerate_multi_gpu.yaml": Case(
        {"parallelism.strategy": "ddp", "parallelism.data": 4, "precision": "bf16-mixed"},
        "num_machines machine_rank gpu_ids main_training_function rdzv_backend same_network downcast_bf16 debug",
        MODEL,
    ),
    "accelerate_fsdp1.yaml": Case(
        {"parallelism.strategy": "fsdp", "parallelism.data": 4, "precision": "bf16-mixed", "checkpointing": "full"},
        "fsdp_config.fsdp_backward_prefetch fsdp_config.fsdp_use_orig_params fsdp_config.fsdp_sync_module_states"
        " fsdp_config.fsdp_cpu_ram_efficient_loading fsdp_config.fsdp_state_dict_type",
        MODEL,
    ),
    "accelerate_fsdp2.yaml": Case(
        {"parallelism.strategy": "fsdp", "parallelism.data": 16, "precision": "bf16-mixed"},
        "num_machines machine_rank fsdp_config.fsdp_cpu_ram_efficient_loading fsdp_config.fsdp_state_dict_type"
        " main_training_function rdzv_backend same_network tpu_env tpu_use_cluster tpu_use_sudo",
        MODEL,
    ),
    "accelerate_zero3.yaml": Case(
        {
            "parallelism.strategy": "zero3",
            "parallelism.data": 8,
            "precision": "bf16-mixed",
            "batch.gradient_accumulation_steps": 2,
        },
        "num_machines deepspeed_config.zero3_init_flag deepspeed_config.zero3_save_16bit_model"
        " deepspeed_config.deepspeed_multinode_launcher main_training_function",
        MODEL,
    ),
    "accelerate_deepspeed_file.yaml": Case(
        {
            "parallelism.strategy": "zero3",
            **ZERO_3_AUTO,
            "parallelism.data": 8,
            "precision": "fp32",
            "batch.micro_batch_size": 8,
            "batch.gradient_accumulation_steps": 1,
            "loop.clip_grad_norm": 1.0,
        },
        "deepspeed_config.zero3_init_flag",
        MODEL,
    ),
    "deepspeed_zero1.json": Case(
        {
            "parallelism.strategy": "zero1",
            "parallelism.zero.overlap_comm": True,
            "parallelism.data": 8,
            "precision": "bf16-mixed",
            "batch.micro_batch_size": 2,
            "batch.gradient_accumulation_steps": 4,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "adamw",
            "optimizer.implementation": "fused",
            "optimizer.weight_decay": 0.1,
        },
        "optimizer.params.lr optimizer.params.betas optimizer.params.eps wall_clock_breakdown",
        MODEL,
    ),
    "deepspeed_zero2_offload.json": Case(
        {
            "parallelism.strategy": "zero2",
            "parallelism.zero.overlap_comm": True,
            "parallelism.zero.reduce_bucket_size": "auto",
            "precision": "fp16-mixed",
            "offload": ["optimizer"],
            "batch.micro_batch_size": 8,
            "batch.gradient_accumulation_steps": 1,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "adamw",
            "optimizer.implementation": "foreach",
        },
        "fp16.loss_scale fp16.loss_scale_window fp16.initial_scale_power fp16.hysteresis optimizer.params.lr"
        " scheduler zero_optimization.offload_optimizer.pin_memory"
        " zero_optimization.allgather_partitions zero_optimization.allgather_bucket_size"
        " zero_optimization.reduce_scatter zero_optimization.contiguous_gradients steps_per_print",
        {**MODEL, "parallelism.data": 2, "offload": []},
    ),
    "deepspeed_zero3_auto.json": Case(
        {
            "parallelism.strategy": "zero3",
            **ZERO_3_AUTO,
            "precision": "fp32",
            "batch.micro_batch_size": 8,
            "batch.gradient_accumulation_steps": 1,
            "loop.clip_grad_norm": 1.0,
        },
        "zero_allow_untested_optimizer fp16.loss_scale fp16.initial_scale_power zero_optimization.contiguous_gradients"
        " zero_optimization.stage3_gather_16bit_weights_on_model_save",
        {**MODEL, "parallelism.data": 8},
    ),
    "training_arguments.yaml": Case(
        {
            "model": "Qwen/Qwen2.5-7B",
            "precision": "bf16-mixed",
            "checkpointing": "full",
            "batch.micro_batch_size": 2,
            "batch.gradient_accumulation_steps": 8,
            "loop.clip_grad_norm": 0.5,
            "optimizer.name": "adamw",
            "optimizer.implementation": "fused",
            "optimizer.weight_decay": 0.01,
        },
        "output_dir per_device_eval_batch_size learning_rate lr_scheduler_type warmup_steps num_train_epochs"
        " logging_steps save_strategy save_steps report_to seed",
    ),
    "training_arguments.json": Case(
        {
            "precision": "fp16-mixed",
            "checkpointing": "none",
            "batch.micro_batch_size": 4,
            "batch.gradient_accumulation_steps": 2,
            "loop.clip_grad_norm": None,
            "optimizer.name": "adamw",
            "optimizer.implementation": "foreach",
            "optimizer.weight_decay": 0.0,
        },
        "output_dir learning_rate max_steps",
        MODEL,
    ),
    "sft_full.yaml": Case(
        {
            "model": "mistralai/Mistral-7B-v0.1",
            "precision": "bf16",
            "attention": "sdpa",
            "checkpointing": "full",
            "batch.micro_batch_size": 16,
            "batch.sequence_length": 2048,
            "batch.gradient_accumulation_steps": 1,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "adamw",
            "optimizer.implementation": "fused",
            "optimizer.weight_decay": 0.0,
        },
        "model_revision dataset_num_proc do_eval learning_rate lr_scheduler_type max_steps num_train_epochs output_dir"
        " report_to save_strategy save_steps save_total_limit seed",
    ),
    "sft_qlora.yaml": Case(
        {
            "model": "mistralai/Mistral-7B-v0.1",
            "precision": "bf16-mixed",
            "quantization": "nf4",
            "adapter.rank": 32,
            "adapter.dropout": 0.05,
            "adapter.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
            "checkpointing": "full",
            "batch.micro_batch_size": 4,
            "batch.sequence_length": 4096,
            "batch.gradient_accumulation_steps": 2,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "adamw",
            "optimizer.implementation": "fused",
            "optimizer.weight_decay": 0.0,
        },
        "lora_alpha dataset_num_proc learning_rate output_dir",
    ),
    "axolotl_lora.yaml": Case(
        {
            "model": "meta-llama/Llama-3.2-1B",
            "precision": "bf16",
            "attention": "sdpa",
            "adapter.rank": 16,
            "adapter.dropout": 0.05,
            "adapter.target_modules": PEFT_ALL,
            "checkpointing": "full",
            "batch.micro_batch_size": 2,
            "batch.sequence_length": 2048,
            "batch.gradient_accumulation_steps": 2,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "adamw-8bit",
            "optimizer.implementation": "auto",
            "optimizer.weight_decay": 0.0,
        },
        "datasets val_set_size output_dir lora_alpha eval_sample_packing pad_to_sequence_len num_epochs lr_scheduler"
        " learning_rate tf32 warmup_steps evals_per_epoch special_tokens",
    ),
    "axolotl_qlora.yaml": Case(
        {
            "model": "meta-llama/Llama-3.1-8B",
            "precision": "bf16-mixed",
            "attention": "flash-attn",
            "quantization": "nf4-double",
            "adapter.rank": 32,
            "adapter.dropout": 0.0,
            "adapter.target_modules": ["all-linear"],
            "checkpointing": "full",
            "batch.micro_batch_size": 2,
            "batch.sequence_length": 4096,
            "batch.gradient_accumulation_steps": 4,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "paged-adamw-8bit",
            "optimizer.implementation": "auto",
            "optimizer.weight_decay": 0.0,
        },
        "lora_alpha datasets output_dir num_epochs lr_scheduler learning_rate logging_steps",
    ),
    "axolotl_fsdp.yaml": Case(
        {
            "model": "meta-llama/Llama-3.1-8B",
            "precision": "bf16-mixed",
            "loss": "fused",
            "parallelism.strategy": "fsdp",
            "checkpointing": "full",
            "batch.micro_batch_size": 2,
            "batch.sequence_length": 4096,
            "batch.gradient_accumulation_steps": 4,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "adamw",
            "optimizer.implementation": "fused",
            "optimizer.weight_decay": 0.0,
        },
        "chat_template datasets num_epochs learning_rate fsdp_config.fsdp_cpu_ram_efficient_loading"
        " fsdp_config.fsdp_state_dict_type",
        {"parallelism.data": 8, "loss": "full"},
    ),
    "axolotl_dpo.yaml": Case(
        {
            "model": "meta-llama/Meta-Llama-3-8B-Instruct",
            "precision": "bf16-mixed",
            "quantization": "int8",
            "adapter.rank": 32,
            "adapter.dropout": 0.0,
            "adapter.target_modules": ["all-linear"],
            "checkpointing": "full",
            "batch.micro_batch_size": 2,
            "batch.sequence_length": 4096,
            "batch.gradient_accumulation_steps": 4,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "adamw-8bit",
            "optimizer.implementation": "auto",
            "optimizer.weight_decay": 0.0,
        },
        "model_type tokenizer_type chat_template datasets lora_alpha learning_rate",
        {"task": "causal-lm"},
        "axolotl_dpo.yaml:7: rl dpo: training by preference or reward is not modelled",
    ),
    "llama_factory_lora.yaml": Case(
        {
            "model": "Qwen/Qwen3-8B",
            "precision": "bf16",
            "attention": "sdpa",
            "adapter.rank": 8,
            "adapter.dropout": 0.0,
            "adapter.target_modules": ["all-linear"],
            "checkpointing": "full",
            "batch.micro_batch_size": 1,
            "batch.sequence_length": 2048,
            "batch.gradient_accumulation_steps": 8,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "adamw",
            "optimizer.implementation": "fused",
            "optimizer.weight_decay": 0.0,
        },
        "trust_remote_code dataset template max_samples preprocessing_num_workers output_dir logging_steps"
        " overwrite_output_dir report_to learning_rate num_train_epochs ddp_timeout",
    ),
    "llama_factory_full_zero3.yaml": Case(
        {
            "model": "Qwen/Qwen3-8B",
            "precision": "bf16-mixed",
            "attention": "sdpa",
            "parallelism.strategy": "zero3",
            **ZERO_3_AUTO,
            "checkpointing": "full",
            "batch.micro_batch_size": 1,
            "batch.sequence_length": 4096,
            "batch.gradient_accumulation_steps": 2,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "adamw",
            "optimizer.implementation": "fused",
            "optimizer.weight_decay": 0.0,
        },
        "dataset template output_dir learning_rate",
        {"parallelism.data": 8},
    ),
    "llama_factory_v1_lora.yaml": Case(
        {
            "model": "Qwen/Qwen3-4B",
            "task": "causal-lm",
            "precision": "bf16",
            "attention": "sdpa",
            "parallelism.strategy": "fsdp",
            "adapter.rank": 16,
            "adapter.dropout": 0.1,
            "adapter.target_modules": ["all-linear"],
            "checkpointing": "full",
            "batch.micro_batch_size": 2,
            "batch.sequence_length": 4096,
            "batch.gradient_accumulation_steps": 1,
            "loop.clip_grad_norm": 1.0,
            **ADAMW_OF_TORCH,
        },
        "peft_config.lora_alpha init_config train_dataset output_dir learning_rate max_steps sample_backend"
        " max_new_tokens",
        {"parallelism.data": 8},
    ),
    "llama_factory_v1_zero3.yaml": Case(
        {
            "model": "Qwen/Qwen3-0.6B",
            "task": "causal-lm",
            "precision": "bf16-mixed",
            "attention": "sdpa",
            "parallelism.strategy": "zero3",
            **ZERO_3_AUTO,
            "checkpointing": "full",
            "batch.micro_batch_size": 1,
            "batch.sequence_length": 2048,
            "batch.gradient_accumulation_steps": 1,
            "loop.clip_grad_norm": 1.0,
            **ADAMW_OF_TORCH,
        },
        "train_dataset output_dir learning_rate max_steps",
        {"parallelism.data": 8},
    ),
    "llama_factory_qlora.yaml": Case(
        {
            "model": "meta-llama/Meta-Llama-3-8B-Instruct",
            "precision": "bf16-mixed",
            "attention": "sdpa",
            "quantization": "nf4-double",
            "adapter.rank": 16,
            "adapter.dropout": 0.0,
            "adapter.target_modules": ["q_proj", "v_proj"],
            "checkpointing": "full",
            "batch.micro_batch_size": 2,
            "batch.sequence_length": 2048,
            "batch.gradient_accumulation_steps": 1,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "adamw",
            "optimizer.implementation": "fused",
            "optimizer.weight_decay": 0.0,
        },
        "dataset template output_dir",
    ),
    "torchtitan_llama3_8b.toml": Case(
        {
            "model": "llama-3.1-8b",
            "precision": "bf16-mixed",
            "parallelism.strategy": "fsdp",
            "parallelism.data": 8,
            "parallelism.tensor": 1,
            "parallelism.pipeline": 1,
            "parallelism.context": 1,
            "checkpointing": "full",
            "batch.micro_batch_size": 1,
            "batch.sequence_length": 8192,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "adamw",
            "optimizer.implementation": "fused",
            "optimizer.weight_decay": 0.1,
        },
        "job profiling model.hf_assets_path optimizer.lr optimizer.eps lr_scheduler training.steps training.dataset"
        " compile.components",
    ),
    "torchtitan_llama3_70b.toml": Case(
        {
            "model": "llama-3.1-70b",
            "precision": "bf16-mixed",
            "parallelism.strategy": "fsdp",
            "parallelism.tensor": 8,
            "checkpointing": "selective",
            "compile.mode": "default",
            "batch.micro_batch_size": 8,
            "batch.sequence_length": 8192,
            "loop.clip_grad_norm": 1.0,
            "optimizer.name": "adamw",
            "optimizer.implementation": "fused",
            "optimizer.weight_decay": 0.1,
        },
        "job optimizer.lr",
        {
            "precision": "bf16-mixed",
            "compile": None,
            "checkpointing": "full",
            "parallelism.tensor": 1,
            "parallelism.data": 64,
        },
        "torchtitan_llama3_70b.toml:8: model.converters: float8 is not modelled",
    ),
    "torchtune_full.yaml": Case(
        {
            "model": "llama-3.1-8b",
            "precision": "bf16",
            "loss": "full",
            "checkpointing": "full",
            "batch.micro_batch_size": 2,
            "batch.sequence_length": 4096,
            "batch.gradient_accumulation_steps": 1,
            "optimizer.name": "adamw",
            "optimizer.implementation": "fused",
        },
        "output_dir tokenizer._component_ tokenizer.path checkpointer dataset._component_ epochs optimizer.lr"
        " metric_logger",
    ),
    "torchtune_qwen3.yaml": Case(
        {
            "model": "qwen3-4b",
            "precision": "bf16",
            "loss": "chunked",
            "adapter.rank": 32,
            "adapter.dropout": 0.0,
            "adapter.target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            "checkpointing": "none",
            "batch.micro_batch_size": 2,
            "batch.sequence_length": 2048,
            "batch.gradient_accumulation_steps": 8,
            "optimizer.name": "adamw",
            "optimizer.implementation": "for-loop",
            "optimizer.weight_decay": 0.01,
        },
        "output_dir model.lora_alpha tokenizer._component_ tokenizer.path tokenizer.merges_file dataset._component_"
        " optimizer.lr",
    ),
    "torchtune_evaluation.yaml": Case(
        {
            "model": "qwen3-0.6b",
            "mode": "inference",
            "precision": "bf16",
            "batch.micro_batch_size": 8,
            "batch.sequence_length": 4096,
        },
        "output_dir checkpointer tokenizer enable_kv_cache",
    ),
    "torchtune_generation.yaml": Case(
        {"model": "llama-2-7b", "mode": "inference", "precision": "bf16", "batch.new_tokens": 200},
        "tokenizer prompt temperature",
    ),
    "torchtune_qlora.yaml": Case(
        {
            "model": "llama-3.2-1b",
            "precision": "bf16",
            "quantization": "nf4-double",
            "loss": "chunked",
            "adapter.rank": 64,
            "adapter.dropout": 0.0,
            "adapter.target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            "checkpointing": "full",
            "batch.micro_batch_size": 4,
            "batch.gradient_accumulation_steps": 8,
            "optimizer.name": "paged-adamw-8bit",
        },
        "model.lora_alpha tokenizer._component_ tokenizer.path optimizer.lr",
    ),
}
"""Batch, precision and so on as the file says; ``given`` stands in for what only the command line can say."""


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, Case, Imported]:
    path = str(FOLDER / request.param)
    return path, CASES[request.param], import_config(path)


def test_each_file_has_a_case() -> None:
    assert {path.name for path in FOLDER.iterdir()} - {"README.md"} == set(CASES)


def test_a_file_says_these_fields_and_no_others(case: tuple[str, Case, Imported]) -> None:
    _, expected, imported = case
    said = {s.field: s.value for s in imported.settings} | {d.field: d.value for d in imported.defaults}
    assert said == expected.fields


def test_the_keys_that_had_no_part_are_listed(case: tuple[str, Case, Imported]) -> None:
    path, expected, imported = case
    assert " ".join(imported.ignored[path]) == expected.ignored
    assert f"{path}: ignored {', '.join(expected.ignored.split())}" in imported.warnings()


def test_each_setting_has_the_line_that_states_it(case: tuple[str, Case, Imported]) -> None:
    _, _, imported = case
    assert imported.settings
    for setting in imported.settings:
        assert setting.line is not None
        line = Path(setting.path).read_text().splitlines()[setting.line - 1]
        assert setting.key.rpartition(".")[2] in line


def test_what_is_not_modelled_is_refused_unless_it_is_overridden(case: tuple[str, Case, Imported]) -> None:
    _, expected, imported = case
    if expected.refused is None:
        imported.refuse()
        return
    with pytest.raises(UnsupportedError) as caught:
        imported.refuse()
    assert expected.refused in str(caught.value)
    imported.refuse(expected.given)


def test_it_can_be_estimated_once_the_command_line_adds_its_part(case: tuple[str, Case, Imported]) -> None:
    _, expected, imported = case
    scenario = decode(lay_over(imported.data(), expected.given.items()))
    assert api.allocated(scenario) > 0
    if not {"model", "parallelism.data"} & expected.given.keys() and expected.given:
        with pytest.raises(MemprofError):  # each field that was given was needed
            api.allocated(imported.scenario())


def test_every_source_is_named() -> None:
    readme = (FOLDER / "README.md").read_text()
    for name in CASES:
        first = (FOLDER / name).read_text().splitlines()[0]
        assert "https://github.com/" in (readme if name.endswith(".json") else first)
        assert not name.endswith(".json") or f"`{name}`" in readme

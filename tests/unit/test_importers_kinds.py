"""What each library's keys become, case by case; whole files are in tests/integration/test_import_configs.py."""

from __future__ import annotations

import copy
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import ConfigError, UnsupportedError
from memprof.importers.combine import FACTS, combine
from memprof.importers.detect import KINDS, import_config
from memprof.importers.documents import Document
from memprof.importers.imported import Imported
from memprof.importers.reader import Reader

BASE: dict[str, dict[str, Any]] = {
    "accelerate": {"distributed_type": "FSDP", "num_processes": 2, "mixed_precision": "bf16"},
    "deepspeed": {"zero_optimization": {"stage": 3}},
    "training-arguments": {"model_name_or_path": "gpt2", "output_dir": "out"},
    "sft": {"model_name_or_path": "gpt2", "max_length": 64},
    "axolotl": {"base_model": "gpt2"},
    "llama-factory": {"model_name_or_path": "gpt2", "stage": "sft"},
    "llama-factory-v1": {"model": "gpt2", "dist_config": {"name": "fsdp2"}},
    "torchtune": {"model": {"_component_": "torchtune.models.llama3_1.llama3_1_8b"}, "batch_size": 1},
    "torchtitan": {"model": {"name": "llama3", "flavor": "8B"}},
}


def imported(folder: Path, kind: str, data: dict[str, Any]) -> Imported:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**BASE[kind], **data}, sort_keys=False))
    return import_config(f"{kind}:{path}")


def fields(found: Imported) -> dict[str, Any]:
    return {d.field: d.value for d in found.defaults} | {s.field: s.value for s in found.settings}


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("accelerate", {"distributed_type": "NO", "num_processes": 1}, {"parallelism.data": 1}),
        ("accelerate", {"distributed_type": "MULTI_GPU"}, {"parallelism.strategy": "ddp", "parallelism.data": 2}),
        ("accelerate", {"distributed_type": "DEEPSPEED"}, {"parallelism.strategy": "zero2"}),
        ("accelerate", {"fsdp_config": {"fsdp_sharding_strategy": 3}}, {"parallelism.strategy": "ddp"}),
        ("accelerate", {"fsdp_config": {"fsdp_offload_params": "true"}}, {"offload": ["optimizer", "parameters"]}),
        ("accelerate", {"use_cpu": True}, {"device": "cpu"}),
        ("accelerate", {"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, {"compile.mode": "default"}),
        (
            "accelerate",
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 1, "gradient_clipping": 0.5}},
            {"parallelism.strategy": "zero1", "loop.clip_grad_norm": 0.5},
        ),
        ("deepspeed", {"optimizer": {"type": "Adam"}}, {"optimizer.name": "adamw"}),
        ("deepspeed", {"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, {"optimizer.name": "adam"}),
        ("deepspeed", {"optimizer": {"type": "SGD"}}, {"optimizer.name": "sgd", "optimizer.implementation": "auto"}),
        ("training-arguments", {"block_size": 512}, {"batch.sequence_length": 512}),
        ("axolotl", {"torch_compile": "auto"}, {"compile.mode": "default"}),
        ("torchtune", {"ac_mode": "selective", "ac_option": 2}, {"checkpointing": {"every": 2}}),
        ("deepspeed", {"gradient_clipping": 0}, {"parallelism.strategy": "zero3"}),
        ("deepspeed", {"tensor_parallel": {"autotp_size": 2}}, {"parallelism.tensor": 2}),
        ("deepspeed", {"zero_optimization": {"stage": 2, "cpu_offload": True}}, {"offload": ["optimizer"]}),
        ("training-arguments", {"fsdp": "full_shard auto_wrap"}, {"parallelism.strategy": "fsdp"}),
        ("training-arguments", {"fsdp": ["full_shard", "offload"]}, {"offload": ["optimizer", "parameters"]}),
        ("training-arguments", {"fsdp": True, "fsdp_config": {"version": 2}}, {"parallelism.strategy": "fsdp"}),
        ("training-arguments", {"fsdp": "", "deepspeed": None}, {"checkpointing": "none"}),
        ("training-arguments", {"torch_compile_mode": "max-autotune"}, {"compile.mode": "max-autotune"}),
        ("training-arguments", {"torch_compile": True}, {"compile.mode": "default"}),
        ("training-arguments", {"activation_checkpointing": True}, {"checkpointing": "full"}),
        ("training-arguments", {"attn_implementation": "flash_attention_2"}, {"attention": "flash-attn"}),
        ("training-arguments", {"load_in_4bit": True, "use_bnb_nested_quant": True}, {"quantization": "nf4-double"}),
        ("training-arguments", {"load_in_8bit": True}, {"quantization": "int8"}),
        ("training-arguments", {"use_liger_kernel": True}, {"loss": "fused"}),
        ("sft", {"max_length": None, "max_seq_length": 32}, {"batch.sequence_length": 32}),
        ("sft", {"fp16": True}, {"precision": "fp16-mixed"}),
        ("sft", {"bf16": False}, {"precision": "fp32"}),
        ("sft", {"gradient_checkpointing": False}, {"checkpointing": "none"}),
        ("axolotl", {"bf16": "auto", "fp16": True, "adapter": "lora"}, {"precision": "fp16"}),
        ("axolotl", {"bf16": False}, {"precision": "fp32"}),
        ("axolotl", {"bf16": "full"}, {"precision": "bf16"}),
        ("axolotl", {"adapter": "lora"}, {"adapter.rank": 8}),
        ("axolotl", {"plugins": ["axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"]}, {"loss": "fused"}),
        ("axolotl", {"chunked_cross_entropy": True}, {"loss": "chunked"}),
        ("axolotl", {"fsdp_config": {"offload_params": True}}, {"offload": ["optimizer", "parameters"]}),
        ("axolotl", {"dp_shard_size": 4, "tensor_parallel_size": 2}, {"parallelism.data": 4, "parallelism.tensor": 2}),
        ("axolotl", {"torch_compile": True}, {"compile.mode": "default"}),
        (
            "axolotl",
            {"load_in_4bit": True, "bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}},
            {"quantization": "nf4"},
        ),
        ("llama-factory", {"pure_bf16": True, "finetuning_type": "full"}, {"precision": "bf16"}),
        ("llama-factory", {"bf16": True, "finetuning_type": "full"}, {"precision": "bf16-mixed"}),
        ("llama-factory", {"bf16": True}, {"precision": "bf16", "adapter.rank": 8}),
        ("llama-factory", {"disable_gradient_checkpointing": True}, {"checkpointing": "none"}),
        ("llama-factory", {"flash_attn": "disabled"}, {"attention": "eager"}),
        ("llama-factory", {"flash_attn": "fa2"}, {"attention": "flash-attn"}),
        ("llama-factory", {"quantization_bit": 8}, {"quantization": "int8"}),
        ("llama-factory", {"quantization_bit": 4, "double_quantization": False}, {"quantization": "nf4"}),
        ("llama-factory", {"enable_liger_kernel": True}, {"loss": "fused"}),
        (
            "llama-factory",
            {"do_predict": True, "per_device_eval_batch_size": 2, "cutoff_len": 512, "bf16": True},
            {
                "mode": "inference", "batch.micro_batch_size": 2, "batch.sequence_length": 512,
                "batch.new_tokens": 1024, "precision": "bf16",
            },
        ),
        (
            "llama-factory",
            {"infer_backend": "huggingface", "max_new_tokens": 64, "infer_dtype": "float16", "finetuning_type": "lora"},
            {"mode": "inference", "batch.micro_batch_size": 1, "batch.new_tokens": 64, "precision": "fp16"},
        ),
        (
            "llama-factory-v1",
            {},
            {
                "task": "causal-lm", "precision": "bf16-mixed", "attention": "sdpa", "checkpointing": "full",
                "batch.micro_batch_size": 1, "batch.sequence_length": 2048, "batch.gradient_accumulation_steps": 1,
                "loop.clip_grad_norm": 1.0, "optimizer.name": "adamw", "optimizer.implementation": "foreach",
                "optimizer.weight_decay": 0.01,
            },
        ),
        ("llama-factory-v1", {"model": None}, {"model": "Qwen/Qwen3-4B-Instruct-2507"}),
        ("llama-factory-v1", {"bf16": False}, {"precision": "fp32"}),
        ("llama-factory-v1", {"bf16": True, "dist_config": None}, {"precision": "fp32"}),
        ("llama-factory-v1", {"peft_config": {"name": "lora"}}, {"precision": "bf16", "adapter.rank": 8}),
        (
            "llama-factory-v1",
            {"peft_config": {"name": "lora", "r": 4, "target_modules": "all"}, "quant_config": {"name": "bnb"}},
            {"adapter.rank": 4, "adapter.target_modules": ["all-linear"], "quantization": "nf4-double"},
        ),
        ("llama-factory-v1", {"quant_config": {"name": "auto", "quantization_bit": 8}}, {"quantization": "int8"}),
        ("llama-factory-v1", {"enable_activation_checkpointing": False}, {"checkpointing": "none"}),
        ("llama-factory-v1", {"flash_attn": "flash_attention_2"}, {"attention": "flash-attn"}),
        (
            "llama-factory-v1",
            {"dist_config": {"name": "fsdp2", "offload_params": True}},
            {"offload": ["optimizer", "parameters"]},
        ),
        (
            "llama-factory-v1",
            {"mp_replicate_size": 2, "mp_shard_size": 4, "dp_size": 8, "micro_batch_size": 2, "global_batch_size": 64},
            {
                "parallelism.strategy": "hsdp", "parallelism.replicate": 2, "parallelism.data": 4,
                "batch.gradient_accumulation_steps": 4,
            },
        ),
        (
            "llama-factory-v1",
            {"dist_config": None, "dp_size": 2},
            {"parallelism.strategy": "ddp", "parallelism.data": 2},
        ),
        (
            "llama-factory-v1",
            {"dist_config": {"name": "fsdpturbo", "ep_size": 16}, "cp_size": 1},
            {"parallelism.expert": 16, "parallelism.context": 1},
        ),
        ("torchtune", {"tensor_parallel_dim": 2}, {"parallelism.tensor": 2}),
        (
            "torchtune",
            {"model": {"_component_": "torchtune.models.qwen2_5.qwen2_5_7b_instruct"}},
            {"model": "qwen2.5-7b"},
        ),
        ("torchtune", {"fsdp_cpu_offload": True}, {"offload": ["optimizer", "parameters"]}),
        ("torchtune", {"dtype": "fp32", "device": "cpu"}, {"precision": "fp32", "device": "cpu"}),
        ("torchtune", {"optimizer": {"_component_": "torch.optim.AdamW"}}, {"optimizer.implementation": "foreach"}),
        (
            "torchtune",
            {"optimizer": {"_component_": "torch.optim.AdamW", "fused": False}},
            {"optimizer.implementation": "for-loop"},
        ),
        (
            "torchtune",
            {"optimizer": {"_component_": "torch.optim.SGD", "fused": False, "foreach": True}},
            {"optimizer.implementation": "foreach"},
        ),
        (
            "torchtune",
            {"optimizer": {"_component_": "torch.optim.AdamW"}, "loss": {"_component_": "torch.nn.CrossEntropyLoss"}},
            {"loss": "full"},
        ),
        (
            "torchtune",
            {
                "model": {
                    "_component_": "torchtune.models.phi3.lora_phi3_mini",
                    "lora_attn_modules": ["q_proj", "v_proj", "output_proj"],
                    "apply_lora_to_mlp": True,
                }
            },
            {"adapter.target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]},
        ),
        (
            "torchtune",
            {"tasks": ["truthfulqa_mc2"], "batch_size": 8, "max_seq_length": 4096, "quantizer": None},
            {"mode": "inference", "batch.micro_batch_size": 8, "batch.sequence_length": 4096},
        ),
        (
            "torchtune",
            {"prompt": {"user": "Tell me a joke."}, "max_new_tokens": 300, "tokenizer": {"max_seq_len": 8192}},
            {"mode": "inference", "batch.new_tokens": 300},
        ),
        (
            "torchtune",
            {"data_parallel_shard_dim": -1, "data_parallel_replicate_dim": 2},
            {"parallelism.strategy": "hsdp", "parallelism.replicate": 2},
        ),
        (
            "torchtitan",
            {"training": {"batch_size": 3, "compile": True}},
            {"batch.micro_batch_size": 3, "compile.mode": "default"},
        ),
        ("torchtitan", {"training": {"mixed_precision_param": "float32"}}, {"precision": "fp32"}),
        ("torchtitan", {"training": {"dtype": "bfloat16", "mixed_precision_param": "float32"}}, {"precision": "bf16"}),
        ("torchtitan", {"training": {"enable_cpu_offload": True}}, {"offload": ["optimizer", "parameters"]}),
        ("torchtitan", {"parallelism": {"data_parallel_shard_degree": 1}}, {"parallelism.strategy": "none"}),
        (
            "torchtitan",
            {"parallelism": {"data_parallel_replicate_degree": 2, "data_parallel_shard_degree": 4}},
            {"parallelism.strategy": "hsdp", "parallelism.replicate": 2, "parallelism.data": 4},
        ),
        (
            "torchtitan",
            {"parallelism": {"data_parallel_replicate_degree": 2, "data_parallel_shard_degree": 1}},
            {"parallelism.strategy": "ddp", "parallelism.data": 2},
        ),
        (
            "torchtitan",
            {"activation_checkpoint": {"mode": "selective", "selective_ac_option": "3"}},
            {"checkpointing": {"every": 3}},
        ),
    ],
)  # fmt: skip
def test_a_key_becomes_a_field(tmp_path: Path, kind: str, data: dict[str, Any], expected: dict[str, Any]) -> None:
    found = imported(tmp_path, kind, data)
    assert expected.items() <= fields(found).items()
    found.refuse()


@pytest.mark.parametrize(
    ("kind", "data", "message", "lifted_by"),
    [
        ("accelerate", {"mixed_precision": "fp8"}, "fp8 is not modelled", "precision"),
        ("axolotl", {"liger_cross_entropy": True}, "Liger's loss over whole logits", "loss"),
        (
            "accelerate",
            {"fsdp_config": {"fsdp_sharding_strategy": "SHARD_GRAD_OP"}},
            "kept whole",
            "parallelism.strategy",
        ),
        (
            "accelerate",
            {"fsdp_config": {"fsdp_version": 2, "fsdp_reshard_after_forward": False}},
            "kept whole",
            "parallelism.strategy",
        ),
        (
            "accelerate",
            {"fsdp_config": {"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP"}},
            "wrapped one by one",
            "parallelism.strategy",
        ),
        (
            "accelerate",
            {"fsdp_config": {"fsdp_activation_checkpointing_offload": True}},
            "offloaded activations",
            "checkpointing",
        ),
        (
            "accelerate",
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 0}},
            "stage 0",
            "parallelism.strategy",
        ),
        ("deepspeed", {"zero_optimization": {"stage": 0}}, "stage 0", "parallelism.strategy"),
        (
            "deepspeed",
            {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8}},
            "this variant",
            "parallelism.strategy",
        ),
        (
            "deepspeed",
            {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}},
            "this variant",
            "parallelism.strategy",
        ),
        ("deepspeed", {"optimizer": {"type": "OneBitAdam"}}, "does not know this optimizer", "optimizer.name"),
        ("training-arguments", {"optim": "galore_adamw"}, "does not know this optimizer", "optimizer.name"),
        ("training-arguments", {"attn_implementation": "flex_attention"}, "does not know this attention", "attention"),
        ("training-arguments", {"fsdp": "shard_grad_op"}, "shard_grad_op is not modelled", "parallelism.strategy"),
        ("training-arguments", {"fsdp": True, "fsdp_config": "fsdp.json"}, "a file of its own", "parallelism.strategy"),
        ("training-arguments", {"beta": 0.1}, "preference or reward", "task"),
        (
            "training-arguments",
            {"use_peft": True, "lora_modules_to_save": ["lm_head"]},
            "trainable parameters",
            "adapter.rank",
        ),
        (
            "training-arguments",
            {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "use_bnb_nested_quant": True},
            "fp4",
            "quantization",
        ),
        ("sft", {"activation_offloading": True}, "offloaded activations", "checkpointing"),
        ("sft", {"num_generations": 4}, "preference or reward", "task"),
        ("axolotl", {"rl": "grpo"}, "preference or reward", "task"),
        ("axolotl", {"reward_model": True}, "reward modelling", "task"),
        ("axolotl", {"gradient_checkpointing": "offload"}, "offloaded activations", "checkpointing"),
        ("axolotl", {"flex_attention": True}, "does not know this attention", "attention"),
        ("axolotl", {"adapter": "llama-adapter"}, "this adapter", "adapter.rank"),
        ("axolotl", {"adapter": "lora", "peft_use_dora": True}, "trainable parameters", "adapter.rank"),
        ("axolotl", {"optimizer": "muon"}, "does not know this optimizer", "optimizer.name"),
        ("axolotl", {"unfrozen_parameters": ["lm_head"]}, "a part of the weights", None),
        ("llama-factory", {"stage": "dpo"}, "preference or reward", "task"),
        ("llama-factory", {"finetuning_type": "freeze"}, "a part of the weights", "adapter.rank"),
        ("llama-factory", {"use_galore": True}, "does not know this optimizer", "optimizer.name"),
        ("llama-factory", {"use_unsloth": True}, "is not modelled", None),
        ("llama-factory", {"use_kt": True}, "use_kt true: is not modelled", None),
        ("llama-factory", {"pipeline_model_parallel_size": 4}, "Megatron's engine", "parallelism.strategy"),
        ("llama-factory", {"use_asft_loss": True}, "a second model", "task"),
        ("llama-factory-v1", {"peft_config": {"name": "freeze"}}, "a part of the weights", "adapter.rank"),
        ("llama-factory-v1", {"peft_config": {"name": "lora", "use_dora": True}}, "trainable", "adapter.rank"),
        ("llama-factory-v1", {"optim_config": {"name": "muon"}}, "does not know this optimizer", "optimizer.name"),
        ("llama-factory-v1", {"pref_beta": 0.1}, "preference or reward", "task"),
        ("llama-factory-v1", {"model_class": "cls"}, "only a causal language model", "task"),
        (
            "llama-factory-v1",
            {"dist_config": {"name": "fsdp2", "reshard_after_forward": False}},
            "kept whole",
            "parallelism.strategy",
        ),
        ("llama-factory", {"quantization_bit": 3}, "only 4 and 8 bits", "quantization"),
        ("llama-factory", {"quantization_bit": 4, "quantization_method": "hqq"}, "only bitsandbytes", "quantization"),
        ("llama-factory", {"flash_attn": "fa3"}, "does not know this attention", "attention"),
        (
            "torchtune",
            {"model": {"_component_": "torchtune.models.llama3_2_vision.llama3_2_vision_11b"}},
            "llama3_2_vision_11b: the catalog has no model of this builder",
            "model",
        ),
        (
            "torchtune",
            {"model": {"_component_": "torchtune.models.llama2.llama2", "embed_dim": 2048}},
            "built from dimensions",
            "model",
        ),
        ("torchtune", {"model": {"path": "x"}}, "names no builder", "model"),
        ("torchtune", {"optimizer": {"lr": 1}, "teacher_model": {"_component_": "x"}}, "a teacher beside", "task"),
        ("torchtune", {"optimizer": {"lr": 1}, "ref_checkpointer": {"_component_": "x"}}, "by preference", "task"),
        ("torchtune", {"training": {"loss": {"x": 1}}, "orchestration": {"num_steps": 1}}, "by preference", "task"),
        (
            "torchtune",
            {"optimizer": {"lr": 1}, "loss": {"_component_": "torchtune.rlhf.loss.DPOLoss", "beta": 0.1}},
            "another loss than cross-entropy",
            "task",
        ),
        ("torchtune", {"optimizer": {"lr": 1}, "quantizer": {"_component_": "x"}}, "quantization-aware", None),
        ("torchtune", {"tasks": ["x"], "quantizer": {"_component_": "x"}}, "torchao's quantized", "quantization"),
        (
            "torchtune",
            {"optimizer": {"_component_": "torchao.optim.AdamW8bit"}},
            "does not know this optimizer",
            "optimizer.name",
        ),
        ("torchtune", {"enable_activation_offloading": True}, "offloaded activations", "checkpointing"),
        (
            "torchtune",
            {"optimizer": {"_component_": "torch.optim.AdamW"}, "optimizer_in_bwd": True},
            "stepping in backward",
            "optimizer.name",
        ),
        ("torchtitan", {"model": {"name": "deepseek_v3", "flavor": "16B"}}, "no counterpart here", "model"),
        (
            "torchtitan",
            {"activation_checkpoint": {"mode": "memory_budget"}},
            "this kind of checkpointing",
            "checkpointing",
        ),
        ("torchtitan", {"parallelism": {"fsdp_reshard_after_forward": "never"}}, "kept whole", "parallelism.strategy"),
        ("torchtitan", {"optimizer": {"early_step_in_backward": True}}, "stepping in backward", "optimizer.name"),
    ],
)  # fmt: skip
def test_what_the_estimate_cannot_follow_is_refused_until_it_is_set_otherwise(
    tmp_path: Path, kind: str, data: dict[str, Any], message: str, lifted_by: str | None
) -> None:
    found = imported(tmp_path, kind, data)
    with pytest.raises(UnsupportedError, match=message) as caught:
        found.refuse()
    assert str(tmp_path / "config.yaml") in str(caught.value)
    assert caught.value.hint
    if lifted_by is not None:
        found.refuse({lifted_by})


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("accelerate", {"fsdp_config": {"fsdp_sharding_strategy": "FULL"}}, "must be one of true, full_shard"),
        ("accelerate", {"distributed_type": "MEGATRON_LM"}, "distributed_type MEGATRON_LM is not modelled"),
        ("accelerate", {"mixed_precision": "int4"}, "must be one of no, bf16, fp16, fp8"),
        ("deepspeed", {"zero_optimization": {"stage": 4}}, "must be 0, 1, 2 or 3"),
        ("training-arguments", {"bf16": True, "fp16": True}, "both true"),
        ("training-arguments", {"max_grad_norm": "much"}, "must be a number, got 'much'"),
        ("llama-factory", {"stage": "sftt"}, "must be one of pt, sft"),
        ("llama-factory", {"export_dir": "merged"}, "nothing is trained; give a config that trains or"),
        ("llama-factory", {"infer_backend": "vllm"}, "must be huggingface, as other engines are not modelled"),
        ("llama-factory-v1", {"peft_config": {"name": "lora", "export_dir": "x"}}, "nothing is trained"),
        ("torchtune", {"quantizer": {"_component_": "x"}}, "writes a quantized checkpoint, and trains nothing"),
        ("llama-factory-v1", {"dist_config": {"dcp_path": "x"}}, "dist_config must have a name, got a mapping"),
        ("llama-factory-v1", {"dist_config": {"name": "ddp"}}, "must be one of fsdp2, fsdpturbo, deepspeed"),
        ("llama-factory-v1", {"dist_config": {"name": "deepspeed"}}, "must have a config_file for deepspeed"),
        ("llama-factory-v1", {"quant_config": {"name": "bnb", "quantization_bit": 3}}, "must be 4 or 8"),
        ("llama-factory-v1", {"dp_size": 4, "mp_shard_size": 8}, "dp_size says 4, but .*mp_shard_size says 8"),
        (
            "torchtune",
            {"optimizer": {"_component_": "torch.optim.AdamW", "fused": True, "foreach": True}},
            "fused and foreach are both true",
        ),
        ("torchtitan", {"training": {"mixed_precision_param": "float16"}}, "must be bfloat16 or float32"),
        ("torchtitan", {"training": [1]}, "training must be a mapping, got a list"),
    ],
)
def test_a_value_that_the_library_would_refuse_is_an_error(
    tmp_path: Path, kind: str, data: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        imported(tmp_path, kind, data)


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("accelerate", {}, "FSDP1 is estimated as FSDP2"),
        ("accelerate", {}, "accelerate reduces gradients in the 16-bit type"),
        ("deepspeed", {"data_types": {"grad_accum_dtype": "fp32"}}, "changes types in ways"),
        ("training-arguments", {"label_smoothing_factor": 0.1}, "label_smoothing_factor 0.1: is not modelled"),
        ("training-arguments", {"optim": "adafactor"}, "larger temporaries"),
        ("sft", {"packing": True}, "rows of the full length"),
        ("sft", {}, "SFTTrainer computes the loss in chunks"),
        ("axolotl", {"lora_mlp_kernel": True}, "an upper bound"),
        ("axolotl", {"chunked_cross_entropy": True}, "the logits of all its chunks"),
        ("llama-factory", {"bf16": True}, "reentrant checkpointing"),
        ("llama-factory", {"use_dft_loss": True}, "what this loss computes"),
        ("llama-factory", {"infer_backend": "huggingface"}, "how long a prompt is"),
        ("llama-factory-v1", {}, "copies the float32 logits"),
        ("llama-factory-v1", {}, "the command line says sft, dpo or rm"),
        ("llama-factory-v1", {"kernel_config": {"name": "auto, liger_kernel"}}, "an upper bound"),
        ("llama-factory-v1", {"batching_strategy": "padding_free"}, "rows of the full length"),
        ("llama-factory-v1", {"batching_strategy": "dynamic_batching"}, "as many sequences as its tokens allow"),
        ("llama-factory-v1", {"dist_config": None, "bf16": True}, "takes effect under fsdp2 alone"),
        ("llama-factory-v1", {"global_batch_size": 8}, "unless --accumulate is set"),
        ("llama-factory-v1", {"init_config": {"name": "init_on_meta"}}, "ignored init_config"),
        (
            "llama-factory-v1",
            {"peft_config": {"name": "lora", "adapter_name_or_path": "x"}},
            "the rank of this adapter, which goes on being trained, is not read",
        ),
        ("torchtune", {}, "the longest sequence decides"),
        ("torchtune", {"tasks": ["x"]}, "logits and their logarithms in float32"),
        ("torchtune", {"max_new_tokens": 8, "tensor_parallel_plan": {"_component_": "x"}}, "unless --tensor is set"),
        ("torchtitan", {}, "torchtitan's own model code"),
    ],
)
def test_what_is_followed_in_part_is_a_warning(tmp_path: Path, kind: str, data: dict[str, Any], message: str) -> None:
    assert any(message in warning for warning in imported(tmp_path, kind, data).warnings())


def test_sizes_of_zeros_buffers_are_taken_over_and_auto_waits_for_the_model(tmp_path: Path) -> None:
    zero = {"stage": 3, "reduce_bucket_size": "auto", "sub_group_size": 1e9, "stage3_max_live_parameters": "auto"}
    found = imported(tmp_path, "deepspeed", {"zero_optimization": {**zero, "overlap_comm": True}})
    sizes = {s.field: s.value for s in found.settings if s.field.startswith("parallelism.zero.")}
    assert sizes == {
        "parallelism.zero.reduce_bucket_size": "auto",
        "parallelism.zero.sub_group_size": 1_000_000_000,
        "parallelism.zero.overlap_comm": True,
    }
    assert found.warnings() == []


def test_stage_2_has_no_use_for_the_sizes_of_stage_3(tmp_path: Path) -> None:
    zero = {"stage": 2, "reduce_bucket_size": 2e8, "stage3_prefetch_bucket_size": 1e7}
    found = imported(tmp_path, "deepspeed", {"zero_optimization": zero})
    assert [s.field for s in found.settings if "zero." in s.field] == ["parallelism.zero.reduce_bucket_size"]


def known_keys(kind: str) -> list[tuple[str, ...]]:
    """Every key that a kind's importer asks for when it reads its base."""
    reader = Reader(Document(path="x", data=BASE[kind], lines={}), kind)
    import_module(f"memprof.importers.{KINDS[kind].module}").read(reader)
    return sorted(reader._read)


KEYS = {kind: known_keys(kind) for kind in BASE}
VALUE = (
    st.none()
    | st.booleans()
    | st.integers(-2, 70_000)
    | st.floats()
    | st.sampled_from(
        ["auto", "true", "cpu", "none", "bf16", "full", "selective", "2", "nf4", "FULL_SHARD", "adamw", "x"]
    )
    | st.text(max_size=3)
    | st.lists(st.integers(0, 3) | st.text(max_size=2) | st.none(), max_size=2)
    | st.just({"type": "AdamW", "params": {"weight_decay": "auto"}})
)


@given(st.data())
def test_any_values_of_known_keys_are_imported_or_a_config_error(data: st.DataObject) -> None:
    parts = []
    for kind in data.draw(st.lists(st.sampled_from(sorted(BASE)), min_size=1, max_size=2)):
        content = copy.deepcopy(BASE[kind])
        for keys in data.draw(st.lists(st.sampled_from(KEYS[kind]), max_size=6)):
            place: Any = content
            for key in keys[:-1]:
                place = place.setdefault(key, {}) if isinstance(place, dict) else place
            if isinstance(place, dict):
                place[keys[-1]] = data.draw(VALUE)
        reader = Reader(Document(path=f"{len(parts)}.yaml", data=content, lines={}), kind)
        with suppress(ConfigError):
            import_module(f"memprof.importers.{KINDS[kind].module}").read(reader)
            parts.append(reader.done())
    with suppress(ConfigError):
        found = combine(parts)
        assert not FACTS & {s.field for s in found.settings}
        assert all(isinstance(warning, str) for warning in found.warnings())
        found.scenario()

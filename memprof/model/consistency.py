"""What the fields of a scenario allow together.

Only contradictions live here: settings that PyTorch or the libraries themselves refuse, or that cancel each other. What
an engine does not model is the engine's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from memprof.errors import ConfigError
from memprof.model.ranges import out_of_range
from memprof.model.scenario import Scenario

Problems = Iterator[tuple[str, str | None]]

_ZERO = ("zero1", "zero2", "zero3")
_FSDP = ("fsdp", "hsdp")
_HALF_ONLY_KERNELS = ("sdpa-flash", "sdpa-cudnn", "flash-attn")
_CUDA_ONLY_KERNELS = ("sdpa-efficient", "sdpa-cudnn", "flash-attn")


def check(scenario: Scenario) -> None:
    """Nothing when such a step can be.

    Raises:
        ConfigError: the first value out of its range, or the first contradiction.
    """
    for message, hint in chain(out_of_range(scenario), contradictions(scenario)):
        raise ConfigError(message, hint)


def contradictions(scenario: Scenario) -> Problems:
    """(message, hint) for each pair of settings that cannot both hold."""
    yield from _sharding(scenario)
    yield from _offload(scenario)
    yield from _training(scenario)
    yield from _optimizer(scenario)
    yield from _attention(scenario)
    yield from _batch(scenario)


def without_effect(scenario: Scenario) -> list[str]:
    """Warnings: settings that are sound but change nothing in this scenario."""
    inference = "has no effect in inference"
    ignored = {
        f"checkpointing {inference}": scenario.mode == "inference" and scenario.checkpointing != "none",
        f"loss {inference}": scenario.mode == "inference" and scenario.loss != "full",
        f"loop.clip_grad_norm {inference}": scenario.mode == "inference" and scenario.loop.clip_grad_norm is not None,
        f"parallelism.zero has no effect with strategy {scenario.parallelism.strategy}": (
            scenario.parallelism.zero is not None and scenario.parallelism.strategy not in _ZERO
        ),
        "batch.new_tokens has no effect in training": scenario.mode == "train"
        and scenario.batch.new_tokens is not None,
    }
    return [warning for warning, applies in ignored.items() if applies]


def _sharding(s: Scenario) -> Problems:
    p = s.parallelism
    if p.strategy == "none" and p.data > 1:
        hint = "choose --strategy ddp, zero1, zero2, zero3, fsdp or hsdp"
        yield f"parallelism.data is {p.data}, but parallelism.strategy is none", hint
    # ZeRO-Offload on one GPU is a use of its own: https://arxiv.org/abs/2101.06840
    alone_is_useful = p.strategy in _ZERO and s.offload
    if p.strategy != "none" and p.data == 1 and not alone_is_useful:
        hint = "set --gpus to their number, or --strategy none"
        yield f"parallelism.strategy {p.strategy} needs more than one GPU, but parallelism.data is 1", hint
    if p.strategy == "hsdp" and p.replicate == 1:
        hint = "set --set parallelism.replicate=2 or more, or --strategy fsdp"
        yield "parallelism.strategy hsdp replicates its shards, but parallelism.replicate is 1", hint
    if p.strategy != "hsdp" and p.replicate > 1:
        yield f"parallelism.replicate is {p.replicate}, but only strategy hsdp replicates shards", "use --strategy hsdp"
    # transformers wheel: integrations/deepspeed.py, deepspeed_init refuses stages 1 and 2.
    if s.mode == "inference" and p.strategy in ("zero1", "zero2"):
        hint = "use --strategy zero3, or none"
        yield f"parallelism.strategy {p.strategy} shards what inference does not have", hint


def _offload(s: Scenario) -> Problems:
    strategy = s.parallelism.strategy
    if s.offload and s.device == "cpu":
        yield "offload moves state to the CPU, but the device is the CPU", "drop --offload"
    if "optimizer" in s.offload and s.mode == "inference":
        yield "offload names the optimizer, but inference has none", "drop it from --offload"
    # https://www.deepspeed.ai/docs/config-json/#parameter-offloading: "Valid only with stage 3".
    if "parameters" in s.offload and strategy in ("ddp", "zero1", "zero2"):
        hint = "use --strategy zero3 or fsdp"
        yield f"offload of parameters needs sharded parameters, which strategy {strategy} does not have", hint
    # torch wheel: distributed/fsdp/_fully_shard/_fsdp_api.py, CPUOffloadPolicy.
    if s.mode == "train" and strategy in _FSDP and len(set(s.offload)) == 1:
        hint = "use --offload optimizer,parameters"
        yield f"{strategy} offloads parameters and optimizer states together or not at all", hint


def _training(s: Scenario) -> Problems:
    # transformers wheel: trainer_utils.py, "You cannot perform fine-tuning on purely quantized models".
    if s.mode == "train" and s.quantization is not None and s.adapter is None:
        hint = "train an adapter on top with --lora 16, or drop --quantize"
        yield f"{s.quantization} weights have no gradients, so they cannot be trained in full", hint
    steps = s.batch.gradient_accumulation_steps
    if s.mode == "inference" and steps > 1:
        hint = "drop --accumulate"
        yield f"batch.gradient_accumulation_steps is {steps}, but inference has no gradients", hint


def _optimizer(s: Scenario) -> Problems:
    name = s.optimizer.name
    if s.optimizer.momentum is not None and name not in ("sgd", "rmsprop"):
        yield f"optimizer.momentum belongs to sgd and rmsprop, not to {name}", "drop it"
    if s.optimizer.state_dtype is not None and name.endswith(("-8bit", "-4bit")):
        kind, bits = name.rsplit("-", 1)
        hint = f"drop it, or use optimizer {kind.rpartition('-')[2]}"
        yield f"optimizer.state_dtype is {s.optimizer.state_dtype}, but {name} keeps {bits[0]}-bit states", hint


def _attention(s: Scenario) -> Problems:
    if s.device == "cpu":
        if s.attention in _CUDA_ONLY_KERNELS:
            yield f"attention {s.attention} has no CPU kernel", "use --attention sdpa"
    elif s.precision == "fp32" and s.attention in _HALF_ONLY_KERNELS:
        hint = "use --attention sdpa, or a 16-bit precision"
        yield f"attention {s.attention} takes 16-bit inputs only, but precision is fp32", hint


def _batch(s: Scenario) -> Problems:
    if s.batch.target_length is not None and s.task not in (None, "seq2seq-lm", "custom"):
        yield f"batch.target_length belongs to task seq2seq-lm, not to {s.task}", "drop it"
    length, context = s.batch.sequence_length, s.parallelism.context
    if length is not None and length % context:
        yield f"batch.sequence_length {length} does not divide by parallelism.context {context}", None

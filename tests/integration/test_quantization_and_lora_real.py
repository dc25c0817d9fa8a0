"""Quantized weights and layers, and LoRA's parameters, against bitsandbytes, transformers and PEFT on the CPU."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from memprof.model.architecture import Architecture, Parameter, Stage
from memprof.semantics.lora import DEFAULT_TARGETS, adapter_dtype, adapter_parameters, is_adapted, target_modules
from memprof.semantics.quantization import (
    backward_steps,
    forward_steps,
    head_modules,
    is_quantized,
    saves_input,
    stored,
    stored_bytes,
)
from tests.support.memory_profile import memory_profile

SHAPES = [(64, 64), (96, 160), (7, 13), (1, 3), (257, 255), (300, 512)]
FOUR_BIT = ["nf4", "nf4-double", "fp4"]


def four_bit_tensors(quantization: str, num_out: int, num_in: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(
        torch.randn(num_out, num_in, dtype=dtype),
        compress_statistics=quantization == "nf4-double",
        quant_type=quantization.split("-")[0],
    )
    tensors = {"weight": packed, "absmax": state.absmax, "code": state.code}
    if state.nested:
        tensors |= {"offset": state.offset, "state2.absmax": state.state2.absmax, "state2.code": state.state2.code}
    return tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("quantization", FOUR_BIT)
def test_stored_is_what_quantize_4bit_makes(quantization: Any, shape: tuple[int, int], dtype: torch.dtype) -> None:
    tensors = four_bit_tensors(quantization, *shape, dtype)
    real = [(name, t.nbytes, str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()]
    assert [tuple(tensor) for tensor in stored(quantization, *shape)] == real
    assert stored_bytes(quantization, *shape) == sum(t.untyped_storage().nbytes() for t in tensors.values())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_stored_is_what_an_8bit_layer_holds(shape: tuple[int, int]) -> None:
    from bitsandbytes.nn import Int8Params

    weight = Int8Params(torch.randn(shape), requires_grad=False, has_fp16_weights=False)._quantize("cpu")
    assert [tuple(t) for t in stored("int8", *shape)] == [
        ("weight", weight.data.nbytes, "int8"),
        ("SCB", weight.SCB.nbytes, "float32"),
    ]
    assert weight.CB.data_ptr() == weight.data.data_ptr()  # one copy, two names


def allocation_events(action: Callable[[], object]) -> list[int]:
    with memory_profile() as record:
        action()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]


def peak(deltas: list[int]) -> int:
    return max(itertools.accumulate(deltas, initial=0))


def make_layer(quantization: str, num_out: int, num_in: int, dtype: torch.dtype) -> Any:
    import bitsandbytes

    if quantization == "int8":
        layer = bitsandbytes.nn.Linear8bitLt(num_in, num_out, bias=False, has_fp16_weights=False, threshold=6.0)
    else:
        layer = bitsandbytes.nn.Linear4bit(
            num_in,
            num_out,
            bias=False,
            compute_dtype=dtype,
            compress_statistics=quantization == "nf4-double",
            quant_type=quantization.split("-")[0],
        )
        layer.to(dtype)
    layer = layer.to("cpu")
    if quantization == "int8" or not layer.weight.bnb_quantized:
        layer.weight._quantize("cpu")
    return layer.train()


@pytest.mark.parametrize("quantization", ["int8", *FOUR_BIT])
@pytest.mark.parametrize("tokens", [6, 40])
def test_quantized_linear_allocates_what_the_rules_say(quantization: Any, tokens: int) -> None:
    num_out, num_in, dtype = 96, 128, "float32"
    layer = make_layer(quantization, num_out, num_in, torch.float32)
    entering = torch.randn(tokens, num_in, requires_grad=True)
    layer(entering).sum().backward()  # the first call sets up what later ones reuse
    made: list[torch.Tensor] = []
    seen = peak(allocation_events(lambda: made.append(layer(entering))))
    forward = forward_steps(quantization, tokens, num_out, num_in, dtype, "cpu", training=True)
    assert alive(forward, "output") == made[0].nbytes
    assert peak([s.num_bytes if s.action == "alloc" else -s.num_bytes for s in forward]) == pytest.approx(seen, abs=64)

    gradient = torch.ones_like(made[0])
    entering.grad = None
    seen = peak(allocation_events(lambda: torch.autograd.grad(made[0], entering, gradient)))
    backward = backward_steps(quantization, tokens, num_out, num_in, dtype, dtype)
    assert peak([s.num_bytes if s.action == "alloc" else -s.num_bytes for s in backward]) == pytest.approx(seen, abs=64)


def alive(steps: Any, name: str) -> int:
    """Bytes that a run of steps leaves behind; all of it must be ``name``."""
    left: dict[str, int] = {}
    for step in steps:
        left[step.name] = left.get(step.name, 0) + (step.num_bytes if step.action == "alloc" else -step.num_bytes)
    assert {key for key, value in left.items() if value} == {name}
    return left[name]


@pytest.mark.parametrize("quantization", ["int8", *FOUR_BIT])
def test_what_keeps_the_input_for_backward(quantization: Any) -> None:
    layer = make_layer(quantization, 32, 64, torch.float32)
    entering = torch.randn(8, 64, requires_grad=True) * 1.0
    storage = weakref.ref(entering.untyped_storage())
    leaving = layer(entering)
    del entering
    gc.collect()
    assert (storage() is not None) == saves_input(quantization)
    leaving.sum().backward()


def tiny(model_type: str) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if model_type == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64, n_positions=32))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))


def as_architecture(model: Any) -> Architecture:
    kinds = {"Linear": "linear", "Conv1D": "conv1d", "Embedding": "embedding"}
    parameters = []
    for path, tensor in model.named_parameters():
        owner = type(model.get_submodule(path.rpartition(".")[0])).__name__
        kind: Any = "bias" if path.endswith("bias") else kinds.get(owner, "norm")
        parameters.append(Parameter(path, tuple(tensor.shape), kind))
    return Architecture(
        name="tiny", hf_id=None, model_type=model.config.model_type, task="causal-lm", config={},
        stages=(Stage("", 1, tuple(parameters)),),
    )  # fmt: skip


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_the_weights_that_transformers_quantizes(model_type: str) -> None:
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    model = tiny(model_type)
    architecture = as_architecture(model)
    heads = head_modules(architecture)
    parameters = architecture.stages[0].parameters
    said = {p.name.removesuffix(".weight") for p in parameters if is_quantized(p, p.name, heads)}
    config = BitsAndBytesConfig(load_in_4bit=True)
    replaced = replace_with_bnb_linear(model, get_keys_to_not_convert(model), config)
    assert said == {name for name, module in replaced.named_modules() if type(module).__name__ == "Linear4bit"}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own call
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("model_type", "asked"),
    [
        ("llama", None),
        ("llama", ("all-linear",)),
        ("llama", ("embed_tokens", "o_proj")),
        ("gpt2", None),
        ("gpt2", ("all-linear",)),
        ("gpt2", ("wte", "attn.c_proj")),
    ],
    ids=str,
)
def test_the_parameters_that_peft_adds(model_type: str, asked: tuple[str, ...] | None, dtype: torch.dtype) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny(model_type).to(dtype)
    architecture = as_architecture(model)
    targets = target_modules(model_type, asked)
    heads = head_modules(architecture)
    said = [
        (f"base_model.model.{added.name}", added.shape, adapter_dtype(str(dtype).removeprefix("torch.")))
        for parameter in architecture.stages[0].parameters
        if is_adapted(parameter, parameter.name, targets, heads)
        for added in adapter_parameters(parameter, 5)
    ]
    config = LoraConfig(
        r=5,
        target_modules="all-linear" if asked == ("all-linear",) else list(asked) if asked else None,
        fan_in_fan_out=model_type == "gpt2",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    real = [
        (name, tuple(p.shape), str(p.dtype).removeprefix("torch."))
        for name, p in adapted.named_parameters()
        if p.requires_grad
    ]
    assert sorted(said) == sorted(real)


def test_default_targets_are_pefts() -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

    assert {name: list(modules) for name, modules in DEFAULT_TARGETS.items()} == {
        name: DEFAULTS[name] for name in DEFAULT_TARGETS
    }


def test_kbit_preparation_makes_what_is_not_quantized_float32() -> None:
    from peft import prepare_model_for_kbit_training

    from memprof.semantics.quantization import prepared_dtype

    model = prepare_model_for_kbit_training(tiny("llama").to(torch.bfloat16), use_gradient_checkpointing=False)
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{prepared_dtype('bfloat16')}"}
    assert not any(p.requires_grad for p in model.parameters())

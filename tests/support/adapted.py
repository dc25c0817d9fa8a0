"""Small real models with LoRA adapters and bitsandbytes weights on the CPU, beside what the engine says of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import transformers
from torch.autograd.graph import saved_tensors_hooks

from memprof.allocator import folded
from memprof.analytic.engine import Played, play
from memprof.model.scenario import Adapter, Batch, Loop, Optimizer, Scenario
from memprof.model.timeline import Action, Timeline, unroll_segment
from memprof.semantics.device import Semantics
from tests.support.referee import CPU, architecture, autocast, memory_events

SIZES: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 301,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 301},
}  # fmt: skip
ALL_LINEAR = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
}
_RATES = ("attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop")


class Case(NamedTuple):
    """A small model and how it runs; ``rank`` 0 is no adapter, ``targets`` None is PEFT's default for the model."""

    family: str
    precision: str
    quantization: str | None = None
    rank: int = 8
    targets: tuple[str, ...] | None = None
    dropout: float = 0.0
    checkpointing: str = "none"
    batch: int = 3
    length: int = 37
    mode: str = "train"
    new_tokens: int | None = None
    attention: str = "sdpa"

    @property
    def config(self) -> dict[str, Any]:
        return SIZES[self.family]


# ---- what the engine says ----


def played(case: Case, semantics: Semantics = CPU) -> Played:
    adapter = Adapter(rank=case.rank, target_modules=case.targets, dropout=case.dropout) if case.rank else None
    scenario = Scenario(
        model="small",
        device="cpu",
        mode=case.mode,  # type: ignore[arg-type]
        precision=case.precision,  # type: ignore[arg-type]
        attention=case.attention,  # type: ignore[arg-type]
        checkpointing=case.checkpointing,  # type: ignore[arg-type]
        quantization=case.quantization,  # type: ignore[arg-type]
        adapter=adapter,
        batch=Batch(micro_batch_size=case.batch, sequence_length=case.length, new_tokens=case.new_tokens),
        optimizer=Optimizer(name="adamw", implementation="for-loop"),
        loop=Loop(dropout=0.0),
    )
    return play(architecture(case.config), scenario, semantics)


def predicted_peaks(timeline: Timeline) -> dict[str, int]:
    """Highest requested bytes of each stage and phase, above what loading left alive."""
    peaks = folded.peaks(timeline)
    return {name: size - peaks.stages["load"] for name, size in (peaks.phases | peaks.stages).items()}


def unrolled_peak(timeline: Timeline) -> int:
    """Highest bytes alive over the unrolled events; fails on a free of what is not alive, and if the last stage cannot
    be repeated."""
    alive: dict[int, int] = {}
    now = highest = 0
    for event in timeline.unroll():
        if event.action == Action.ALLOC:
            assert event.block not in alive
            alive[event.block] = event.num_bytes
            now += event.num_bytes
            highest = max(highest, now)
        else:
            now -= alive.pop(event.block)
    before = dict(alive)
    for index in timeline.schedule[-1][1]:
        for event in unroll_segment(timeline, index):
            if event.action == Action.ALLOC:
                assert event.block not in alive
                alive[event.block] = event.num_bytes
            else:
                alive.pop(event.block)
    assert alive == before  # a step leaves what it finds
    return highest


# ---- what really happens ----


def real_model(case: Case) -> Any:
    torch.set_num_threads(CPU.num_threads)
    torch.manual_seed(0)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    rates = dict.fromkeys(_RATES, 0.0)
    config = transformers.CONFIG_MAPPING[case.family](**case.config | rates, use_cache=case.mode == "inference")
    loaded = torch.float32 if case.precision == "fp32" else torch.bfloat16
    if case.precision == "bf16-mixed" and case.quantization is None:
        loaded = torch.float32
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=case.attention, dtype=loaded)
    if case.quantization is not None:
        quantize(model, case.quantization, torch.float32 if case.precision == "fp32" else torch.bfloat16)
    if case.checkpointing == "full":
        model.activation_checkpointing_enable()
    if case.rank:
        model = adapted(model, case)
    return model.train(case.mode == "train")


def quantize(model: Any, quantization: str, compute_dtype: torch.dtype) -> None:
    """Every linear but the head's, as ``replace_with_bnb_linear`` does it."""
    import bitsandbytes

    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if name == "lm_head" or not isinstance(module, torch.nn.Linear | transformers.pytorch_utils.Conv1D):
                continue
            transposed = not isinstance(module, torch.nn.Linear)
            weight = module.weight.data.t().contiguous() if transposed else module.weight.data
            num_out, num_in = weight.shape
            layer: Any
            if quantization == "int8":
                layer = bitsandbytes.nn.Linear8bitLt(
                    num_in, num_out, bias=module.bias is not None, has_fp16_weights=False, threshold=6.0
                )
                packed: Any = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
            else:
                kind, nested = quantization.split("-")[0], quantization == "nf4-double"
                layer = bitsandbytes.nn.Linear4bit(
                    num_in, num_out, bias=module.bias is not None, compute_dtype=compute_dtype, quant_type=kind,
                    compress_statistics=nested,
                )  # fmt: skip
                packed = bitsandbytes.nn.Params4bit(
                    weight, requires_grad=False, quant_type=kind, compress_statistics=nested
                )
            layer.weight = packed._quantize("cpu")
            layer.bias = module.bias
            setattr(parent, name, layer)
    model.requires_grad_(False)
    setattr(model, "is_loaded_in_8bit" if quantization == "int8" else "is_loaded_in_4bit", True)


def adapted(model: Any, case: Case) -> Any:
    import peft

    if case.quantization is not None:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if case.checkpointing == "full":
        model.enable_input_require_grads()
    targets = list(case.targets) if case.targets else None
    config = peft.LoraConfig(
        r=case.rank, lora_dropout=case.dropout, target_modules=targets, task_type="CAUSAL_LM",
        fan_in_fan_out=case.family == "gpt2" and case.quantization is None,
    )  # fmt: skip
    return peft.get_peft_model(model, config)


def training_step(case: Case, model: Any) -> tuple[Callable[[], Any], Callable[[], None]]:
    """(forward that returns the loss, whole step). One short step has run: biases have taken their dtype."""
    ids = torch.randint(0, case.config["vocab_size"], (case.batch, case.length))
    labels = ids.clone()

    def forward(length: int = case.length) -> Any:
        with autocast(case):  # type: ignore[arg-type]
            return model(input_ids=ids[:, :length], labels=labels[:, :length]).loss

    forward(2).backward()
    model.zero_grad()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], foreach=False)

    def step() -> None:
        forward().backward()
        optimizer.step()
        optimizer.zero_grad()

    return forward, step


def kept_bytes(model: Any, forward: Callable[[], Any]) -> int:
    """Bytes kept for the backward pass: by autograd, parameters left out, and by bitsandbytes' 8-bit nodes."""
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    seen: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            seen[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    nodes, met = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in met:
            continue
        met.add(node)
        if "MatMul8bit" in node.name():
            pack(node.A)
        nodes += [following for following, _ in node.next_functions]
    return sum(storage.nbytes() for storage in seen.values())


def measured_peaks(step: Callable[[], object]) -> tuple[int, int]:
    """Highest bytes of a real first and second step, above what was alive before the first."""
    first = list(accumulate(memory_events(step), initial=0))
    second = list(accumulate(memory_events(step), initial=first[-1]))
    return max(first), max(second)

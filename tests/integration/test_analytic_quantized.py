"""QLoRA and 8-bit LoRA steps predicted by the analytic engine, against bitsandbytes and PEFT on the CPU."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from memprof.allocator import folded
from memprof.model.timeline import Component
from tests.support.adapted import (
    ALL_LINEAR,
    Case,
    kept_bytes,
    measured_peaks,
    played,
    predicted_peaks,
    real_model,
    training_step,
    unrolled_peak,
)
from tests.support.tapes import tape

CASES = [
    Case("llama", precision, quantization, targets=targets, dropout=dropout, checkpointing=checkpointing)
    for quantization, precision, checkpointing in product(
        ("nf4-double", "int8"), ("bf16", "bf16-mixed"), ("none", "full")
    )
    for targets, dropout in ((None, 0.0), (ALL_LINEAR["llama"], 0.1))
] + [
    Case("gpt2", "bf16", quantization, targets=ALL_LINEAR["gpt2"], checkpointing="full")
    for quantization in ("nf4", "nf4-double", "fp4", "int8")
]
# PEFT's own call
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def named(case: Case) -> str:
    return f"{case.family}-{case.quantization}-{case.precision}-{case.checkpointing}-{len(case.targets or ())}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_quantized_step_keeps_and_needs_what_the_libraries_do(case: Case) -> None:
    model, play = real_model(case), played(case)
    assert play.num_trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    forward, step = training_step(case, model)
    assert weight_bytes(case) == real_weight_bytes(model)
    assert sum(s.num_bytes * s.count for s in play.saved) == kept_bytes(model, forward)
    predicted = predicted_peaks(play.timeline)
    assert (predicted["first_step"], predicted["step"]) == pytest.approx(measured_peaks(step), rel=0.001)
    assert unrolled_peak(play.timeline) == folded.peaks(play.timeline).num_bytes


def test_8bit_layers_keep_their_inputs_past_checkpoints() -> None:
    """The 8-bit node holds its input as a plain attribute, so a checkpointed step still keeps each linear's input."""
    kept = {}
    for quantization in ("nf4", "int8"):
        play = played(Case("llama", "bf16", quantization, targets=ALL_LINEAR["llama"], checkpointing="full"))
        kept[quantization] = sum(s.num_bytes * s.count for s in play.saved)
    tokens, hidden, width, layers = 3 * 37, 64, 96, 3
    inputs = layers * tokens * (3 * hidden + width) * 4  # of attention, its output, the MLP, and down; float32
    assert kept["int8"] - kept["nf4"] == inputs


def test_a_gpu_kept_the_inputs_of_8bit_layers_to_the_end_of_the_backward_pass() -> None:
    """TinyLlama with adapted 8-bit layers, 1000 tokens: both norms' outputs, attention's, the MLP's product."""
    recorded = tape("gpu_tinyllama1.1b_int8_lora_ckpt")
    phases, ops = recorded.column("phase"), recorded.column("op")
    start = phases.index("backward")
    alive: dict[int, tuple[str, int]] = {}
    freed_in_backward = set()
    for index, (action, block, size) in enumerate(
        zip(recorded.column("action"), recorded.events.block, recorded.events.size, strict=True)
    ):
        if action == "alloc" and index < start:
            alive[block] = (ops[index], size)
        elif action == "free_requested" and index < start:
            alive.pop(block, None)
        elif action == "free_requested":
            freed_in_backward.add(block)
    kept = Counter(made for block, made in alive.items() if block not in freed_in_backward)
    layers, hidden, width = 22, 1000 * 2048 * 4, 1000 * 5632 * 4
    assert kept["mul_Tensor", hidden] == 2 * layers
    assert kept["_efficient_attention_forward", hidden] == layers
    assert kept["mul_Tensor", width] == layers


def weight_bytes(case: Case) -> int:
    timeline = played(case).timeline
    point = folded.Point(len(timeline.schedule) - 1, 0, 0, -1)
    return folded.alive(timeline, point).components[Component.WEIGHTS]


def real_weight_bytes(model: object) -> int:
    """Parameters with bitsandbytes' statistics, each storage once; the shared code table of double quantization once
    a weight, as each weight has its own copy."""
    storages = {}
    for module in model.modules():  # type: ignore[attr-defined]
        for parameter in module.parameters(recurse=False):
            tensors = [parameter.data]
            state = getattr(parameter, "quant_state", None)
            if state is not None:
                tensors += [state.absmax, state.code]
                if state.nested:
                    tensors += [state.offset, state.state2.absmax, state.state2.code]
            held = getattr(module, "state", None)
            if held is not None and held.SCB is not None:
                tensors.append(held.SCB)
            for tensor in tensors:
                storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    return sum(storages.values())

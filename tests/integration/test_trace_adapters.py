"""LoRA, quantized weights and inference on fake tensors, beside real runs of the same small models on the CPU."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt
from transformers.activations import NewGELUActivation

from memprof.allocator import folded
from memprof.analytic import engine as analytic
from memprof.errors import ModelError
from memprof.measure import cpu
from memprof.model.scenario import Adapter, Batch, Loop, Optimizer, Scenario
from memprof.semantics.device import Semantics
from memprof.trace.engine import play
from memprof.workload.build import build
from tests.support import real_step as grid
from tests.support.adapted import Case, predicted_peaks, real_model, training_step
from tests.support.referee import CPU, architecture, autocast, memory_events
from tests.support.zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TRAINED = [
    Case("llama", "fp32"),
    Case("gpt2", "bf16-mixed", checkpointing="full"),
    Case("llama", "bf16-mixed", quantization="nf4"),
    Case("llama", "bf16", quantization="nf4-double", checkpointing="full"),
    Case("gpt2", "fp32", quantization="fp4", targets=("c_attn", "c_proj")),
    Case("llama", "bf16-mixed", quantization="int8"),
]
H100 = Semantics(kind="cuda", architecture="sm_90")
SCALARS_BYTES = 8
"""Of the loss, which the analytic engine leaves out."""
NUMBER_BYTES = 8
"""A Python number that meets a tensor is one of the host's, in float64, and kept where a product needs it again. The
trace has none: modes are handed numbers as numbers, and checkpointing lets go of none, as hooks never see them either.

Source: torch/csrc/autograd/saved_variable.cpp (``is_wrapped_number``).
"""


def scenario(case: Case) -> Scenario:
    return Scenario(
        model="small",
        task="causal-lm",
        device="cpu",
        mode=case.mode,  # type: ignore[arg-type]
        precision=case.precision,  # type: ignore[arg-type]
        checkpointing=case.checkpointing,  # type: ignore[arg-type]
        quantization=case.quantization,  # type: ignore[arg-type]
        adapter=Adapter(rank=case.rank, target_modules=case.targets, dropout=case.dropout) if case.rank else None,
        batch=Batch(micro_batch_size=case.batch, sequence_length=case.length, new_tokens=case.new_tokens),
        optimizer=Optimizer(name="adamw", implementation="for-loop"),
        loop=Loop(dropout=0.0),
    )


def traced_peaks(case: Case) -> dict[str, int]:
    return predicted_peaks(play(scenario(case), dict(case.config), CPU, lambda _: None).timeline)


def kept_numbers(model: torch.nn.Module) -> int:
    """Factors of what is trained: the scale of each adapter, and three in each activation of GPT-2."""
    adapters = sum(isinstance(module, LoraLayer) for module in model.modules())
    return adapters + 3 * sum(isinstance(module, NewGELUActivation) for module in model.modules())


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: "-".join(map(str, case[:3])))
def test_a_traced_step_peaks_where_the_real_one_does(case: Case) -> None:
    model = real_model(case)
    _, step = training_step(case, model)
    first = list(accumulate(memory_events(step), initial=0))
    second = list(accumulate(memory_events(step), initial=first[-1]))
    traced = traced_peaks(case)
    numbers = NUMBER_BYTES * kept_numbers(model)
    assert (max(first) - traced["first_step"], max(second) - traced["step"]) == (numbers, numbers)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
def test_a_traced_prompt_and_one_more_token_peak_where_the_real_ones_do(precision: str) -> None:
    case = Case("llama", precision, mode="inference", rank=0)
    model = real_model(case)
    ids = torch.randint(0, 300, (case.batch, case.length))

    @torch.no_grad()
    def two_calls() -> None:
        with autocast(case):  # type: ignore[arg-type]
            cache = model(input_ids=ids, use_cache=True).past_key_values
        with autocast(case):  # type: ignore[arg-type]
            model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)

    two_calls()
    assert traced_peaks(case)["step"] == max(accumulate(memory_events(two_calls), initial=0))


WIDE = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "intermediate_size": 1536, "vocab_size": 31,
}  # fmt: skip
"""Peaks where it multiplies with its widest weights."""


@pytest.mark.parametrize("quantization", ["int8", "nf4", "nf4-double"])
def test_a_product_with_quantized_weights_takes_what_it_really_does(quantization: str) -> None:
    answered = scenario(Case("llama", "bf16", mode="inference", rank=0, quantization=quantization))
    peaks = folded.peaks(play(answered, WIDE, CPU, lambda _: None).timeline)
    assert cpu.measure(lambda: build(answered, WIDE), answered).phase_peak_bytes == peaks.phases | peaks.stages


@pytest.mark.parametrize("mode", ["train", "inference"])
@pytest.mark.parametrize("quantization", ["int8", "nf4", "nf4-double"])
def test_both_engines_multiply_with_quantized_weights_alike_on_cuda(quantization: str, mode: str) -> None:
    rank = 8 if mode == "train" else 0
    case = scenario(Case("llama", "bf16", mode=mode, rank=rank, quantization=quantization, batch=1))
    traced = folded.peaks(play(case, WIDE, H100, lambda _: None).timeline).phases
    counted = folded.peaks(analytic.play(architecture(WIDE), case, H100).timeline).phases
    assert traced.keys() == counted.keys()
    assert all(0 <= traced[phase] - counted[phase] <= SCALARS_BYTES for phase in traced)


@pytest.mark.parametrize(("quantization", "layer"), [("int8", Linear8bitLt), ("nf4", Linear4bit)])
def test_adapters_on_quantized_weights_are_those_that_peft_has_for_them(quantization: str, layer: type) -> None:
    """They copy and cast otherwise than plain ones."""
    case = Case("llama", "bf16", quantization=quantization)
    model = build(scenario(case), dict(case.config)).model
    assert {type(module) for module in model.modules() if isinstance(module, LoraLayer)} == {layer}


def test_the_scales_of_quantized_weights_are_counted_with_them() -> None:
    case = Case("llama", "bf16-mixed", quantization="nf4")
    timeline = play(scenario(case), dict(case.config), CPU, lambda _: None).timeline
    model = real_model(case)
    states = [p.quant_state for p in model.parameters() if getattr(p, "quant_state", None) is not None]
    scales = sum(part.nbytes for state in states for part in (state.absmax, state.code))
    weights = sum(p.nbytes for p in model.parameters())
    buffers = sum(b.nbytes for b in model.buffers())
    inputs = 2 * case.batch * case.length * 8
    assert folded.peaks(timeline).stages["load"] == weights + scales + buffers + inputs


def test_a_model_whose_inputs_become_no_tensor_is_refused_an_adapter_under_checkpointing() -> None:
    swin = next(entry for entry in ZOO if entry.name == "swin")
    with pytest.raises(ModelError, match=r"patch_embeddings' returns no tensor.*needs one to checkpoint an adapted"):
        grid.traced_peaks(grid.Cell(swin, "fp32", "full", "lora"))

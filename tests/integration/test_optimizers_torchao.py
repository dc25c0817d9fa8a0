"""torchao's optimizers: what rules and engines say, against real objects and a real compiled step on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from memprof import api
from memprof.model.decode import decode
from memprof.model.scenario import Optimizer
from memprof.semantics.optimizer_program import Parameter, play
from memprof.semantics.optimizers import OptimizerRule, optimizer_rule
from memprof.workload.optimizers import make_optimizer
from tests.support.memory_profile import memory_profile

pytest.importorskip("torchao")
pytestmark = pytest.mark.parametrize("name", ["torchao-adamw-8bit", "torchao-adamw-4bit"])

SHAPES = [(50, 64), (64,), (64, 64), (4096,), (63, 65), (3, 5, 16), (128, 96)]
"""Of fewer than 4096 elements, of whole blocks of 256, and of 4095 elements."""


def make_parameters(dtype: str) -> list[torch.Tensor]:
    parameters = [torch.ones(shape, dtype=getattr(torch, dtype), requires_grad=True) for shape in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    return parameters


def rule_of(name: Any, dtype: str) -> OptimizerRule:
    return optimizer_rule(Optimizer(name=name), "cpu", dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_states_are_the_real_objects_tensors(name: Any, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # an eager step makes the same states
    tensors = make_parameters(dtype)
    optimizer = make_optimizer(Optimizer(name=name), tensors)
    optimizer.step()
    for tensor in tensors:
        real = []
        for key, value in optimizer.state[tensor].items():
            parts = {f"{key}.{part}": getattr(value, part) for part in getattr(value, "tensor_attrs", ())}
            real += [(part, each.nbytes, str(each.dtype)) for part, each in (parts or {key: value}).items()]
        said = rule_of(name, dtype).states(tuple(tensor.shape), dtype)
        assert [(state.name, state.num_bytes, f"torch.{state.dtype}") for state in said] == real


def test_trainer_makes_it_with_the_same_blocks(name: str, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    word = {"torchao-adamw-8bit": "adamw_torch_8bit", "torchao-adamw-4bit": "adamw_torch_4bit"}[name]
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(TrainingArguments(str(tmp_path), optim=word))
    made = make_optimizer(Optimizer(name=name), make_parameters("float32"))  # type: ignore[arg-type]
    assert type(made) is kind
    assert made.block_size == settings["block_size"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:OptimState:UserWarning")  # torch says so as it keeps the compiled code
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the compiler's own
def test_a_compiled_step_allocates_what_the_program_says(name: Any) -> None:
    tensors = [
        torch.ones(shape, dtype=dtype, requires_grad=True)
        for shape, dtype in (((64, 64), torch.float32), ((63, 65), torch.float32), ((128, 96), torch.bfloat16))
    ]
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    optimizer = make_optimizer(Optimizer(name=name), tensors)
    optimizer.step()
    with memory_profile() as record:
        optimizer.step()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    seen = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if abs(e.nbytes()) > 8]  # but for scalars
    parameters = [Parameter(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in tensors]
    said = play(rule_of(name, "float32").steady_step, parameters)
    assert seen == [e.num_bytes if e.action == "alloc" else -e.num_bytes for e in said]


@pytest.mark.parametrize("device", ["cpu", "h100-80gb"])
def test_both_engines_say_the_same(name: str, device: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "n_embd": 256, "n_layer": 2, "n_head": 4, "vocab_size": 4096}))
    said = {"precision": "bf16", "batch": {"sequence_length": 32}, "optimizer": {"name": name}, "device": device}
    scenario = decode({"model": str(config), **said})
    traced, analysed = (api.estimate(scenario, engine=engine) for engine in ("trace", "analytic"))
    assert traced.persistent_bytes == analysed.persistent_bytes
    assert traced.peak.requested_bytes == pytest.approx(analysed.peak.requested_bytes, abs=8)
    assert traced.phase_peak_bytes["optimizer"] == pytest.approx(analysed.phase_peak_bytes["optimizer"], abs=8)
    for result in (traced, analysed):
        assert any("compiling torchao's update" in warning for warning in result.warnings)
        assert any("no run has shown it" in warning for warning in result.warnings) is (device != "cpu")

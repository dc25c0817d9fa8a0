"""The referee of the analytic engine: small real models on the CPU, beside what the engine says of the same run.

Each side of a case is one line: ``saved_by_autograd`` and ``played``; ``measured_peaks`` and ``predicted_peaks``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import transformers
from torch.autograd.graph import saved_tensors_hooks

from memprof.allocator import folded
from memprof.analytic.engine import Played, play
from memprof.catalog.architectures import lay_out
from memprof.model.architecture import Architecture
from memprof.model.scenario import Batch, Loop, Optimizer, Scenario
from memprof.semantics.chunked_loss import IGNORED
from memprof.semantics.device import Semantics
from memprof.workload.chunked_loss import chunk_loss
from tests.support.memory_profile import memory_profile

CPU = Semantics(kind="cpu", architecture="cpu", num_threads=1)
_WEIGHTS = {"fp32": torch.float32, "bf16": torch.bfloat16, "bf16-mixed": torch.float32}
_RATES = ("attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop")
_OPTIMIZERS: dict[str, Any] = {
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adafactor": torch.optim.Adafactor,
}


class Case(NamedTuple):
    """A small model and how one step of it runs. ``config`` holds ``model_type`` and what differs from its defaults."""

    config: dict[str, Any]
    batch: int
    length: int
    precision: str = "fp32"
    attention: str = "sdpa"
    checkpointing: str = "none"
    dropout: float = 0.0
    optimizer: str = "sgd"
    implementation: str = "for-loop"
    accumulate: int = 1
    zero_grad: str = "after_step"
    loss: str = "full"

    @property
    def num_layers(self) -> int:
        return int(self.config.get("num_hidden_layers") or self.config["n_layer"])


class Kept(NamedTuple):
    """A storage that autograd keeps: the block's child that saved it, layer index starred, and its bytes."""

    module: str
    num_bytes: int


# ---- what the engine says ----


def architecture(config: dict[str, Any]) -> Architecture:
    layout = lay_out(config)
    return Architecture(
        name="small", hf_id=None, model_type=layout.config["model_type"], task=layout.task, config=layout.config,
        stages=layout.stages, tied=layout.tied,
    )  # fmt: skip


def scenario(case: Case) -> Scenario:
    return Scenario(
        model="small",
        device="cpu",
        precision=case.precision,  # type: ignore[arg-type]
        attention=case.attention,  # type: ignore[arg-type]
        checkpointing=case.checkpointing,  # type: ignore[arg-type]
        loss=case.loss,  # type: ignore[arg-type]
        batch=Batch(
            micro_batch_size=case.batch, sequence_length=case.length, gradient_accumulation_steps=case.accumulate
        ),
        optimizer=Optimizer(name=case.optimizer, implementation=case.implementation),  # type: ignore[arg-type]
        loop=Loop(dropout=case.dropout, zero_grad=case.zero_grad),  # type: ignore[arg-type]
    )


def played(case: Case) -> Played:
    return play(architecture(case.config), scenario(case), CPU)


def kept(play: Played) -> Iterator[Kept]:
    """What the engine says autograd saves, one entry a storage."""
    for saved in play.saved:
        for _ in range(saved.count):
            yield Kept(_child(saved.module), saved.num_bytes)


def predicted_peaks(case: Case) -> tuple[int, int]:
    """Highest requested bytes of the first and of a later step, above what loading left alive."""
    stages = folded.peaks(played(case).timeline).stages
    return stages["first_step"] - stages["load"], stages["step"] - stages["load"]


# ---- what really happens ----


def real_model(case: Case) -> Any:
    torch.set_num_threads(CPU.num_threads)
    torch.manual_seed(0)
    rates = dict.fromkeys(_RATES, case.dropout)
    config = transformers.CONFIG_MAPPING[case.config["model_type"]](**case.config | rates, use_cache=False)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=case.attention, dtype=_WEIGHTS[case.precision]
    )
    if case.checkpointing == "full":
        model.activation_checkpointing_enable()
    if case.loss == "chunked":
        chunk_loss(model)
    return model.train()


def tokens(case: Case, vocab_size: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, vocab_size, (case.batch, case.length))
    return {"input_ids": ids, "labels": labels_of(ids, case.loss)}


def labels_of(ids: torch.Tensor, loss: str) -> torch.Tensor:
    """As the loss takes them: of the same tokens, or shifted, so that the last of a sequence is missing."""
    return ids.clone() if loss == "full" else torch.nn.functional.pad(ids[:, 1:], (0, 1), value=IGNORED)


def autocast(case: Case) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16) if case.precision == "bf16-mixed" else nullcontext()


def saved_by_autograd(case: Case) -> list[Kept]:
    """The storages that autograd saves over a forward pass, in the order of the first time; parameters left out."""
    model = real_model(case)
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    seen: dict[int, Any] = {}
    saved: list[Kept] = []
    inside: list[str] = [""]

    def leave(*_: object) -> None:
        inside.pop()

    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: inside.append(name))
        module.register_forward_hook(leave)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters and storage._cdata not in seen:
            seen[storage._cdata] = storage  # alive, so that no other storage takes its address
            saved.append(Kept(_child(re.sub(r"\.\d+(?=\.|$)", ".*", inside[-1])), storage.nbytes()))
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), autocast(case):
        model(**tokens(case, model.config.vocab_size))
    return saved


def measured_peaks(case: Case) -> tuple[int, int]:
    """Highest bytes of a real first and second step, above what was alive before the first."""
    model = real_model(case)
    optimizer = _OPTIMIZERS[case.optimizer](model.parameters(), lr=1e-3, foreach=case.implementation == "foreach")
    inputs = tokens(case, model.config.vocab_size)

    def micro_step() -> None:
        with autocast(case):
            loss = model(**inputs).loss
        loss.backward()

    def step() -> None:
        if case.zero_grad == "start":
            optimizer.zero_grad()
        for _ in range(case.accumulate):
            micro_step()
        optimizer.step()
        if case.zero_grad == "after_step":
            optimizer.zero_grad()

    first = list(accumulate(memory_events(step), initial=0))
    second = list(accumulate(memory_events(step), initial=first[-1]))
    return max(first), max(second)


def memory_events(action: Callable[[], object]) -> list[int]:
    """Bytes allocated (positive) and freed (negative) by CPU tensors, in order."""
    with memory_profile() as record:
        action()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]


def _child(module: str) -> str:
    """The module at the depth of a block's children, ``model.layers.*.mlp``; the engine counts the loss to the head."""
    match = re.match(r".*?\.\*(\.[^.]+)?", module)
    return match[0] if match else module or "lm_head"

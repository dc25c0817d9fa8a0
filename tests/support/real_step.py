"""A training step really played on the CPU: what it allocates, op by op, and the highest bytes of each phase.

A cell is one architecture of the zoo in one precision, with or without checkpointing, under one way to optimize. Its
step is the loop of ``DESIGN.md``: load, then two steps of forward, loss, backward, optimizer and ``zero_grad``.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.profiler import record_function

from tests.support.memory_profile import memory_profile
from tests.support.zoo import ZOO, Entry

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHECKPOINTING = ("none", "full")
WAYS = ("adamw", "sgd", "adamw-8bit", "lora")
PHASES = ("forward", "backward", "optimizer")
_STEPS = ("first_step", "step")


class Cell(NamedTuple):
    """One case of the grid; ``way`` is the optimizer, or LoRA of rank 8 under AdamW."""

    entry: Entry
    precision: str
    checkpointing: str
    way: str

    def __str__(self) -> str:
        return "-".join((self.entry.name, self.precision, self.checkpointing, self.way))


class Allocation(NamedTuple):
    """Bytes asked for (positive) or given back (negative), inside which op of which phase of which step."""

    num_bytes: int
    address: int
    path: tuple[str, ...]

    @property
    def op(self) -> str:
        """The ATen op or autograd node that a user would name: the outermost one inside the phase."""
        return self.path[2] if len(self.path) > 2 else ""


class RealStep(NamedTuple):
    """``resident_bytes``: parameters, buffers and batch, alive before the first step; ``events`` follow in order."""

    resident_bytes: int
    events: list[Allocation]

    def peaks(self) -> dict[str, int]:
        """Highest bytes of load, of each phase of either step, and of all."""
        now = self.resident_bytes
        peaks = {"load": now, "peak": now}
        for event in self.events:
            now += event.num_bytes
            for key in ("peak", *event.path[:2], "/".join(event.path[:2])):
                peaks[key] = max(peaks.get(key, 0), now)
        return peaks


def grid() -> Iterator[Cell]:
    for combination in itertools.product(ZOO, PRECISIONS, CHECKPOINTING, WAYS):
        yield Cell(*combination)


def prepare(cell: Cell) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """Model, optimizer and batch, as a script would make them.

    Raises:
        ValueError: the library refuses to checkpoint this model.
    """
    dtype = PRECISIONS[cell.precision]
    model = cell.entry.build(dtype)
    if cell.checkpointing == "full":
        model.activation_checkpointing_enable()
    if cell.way == "lora":
        model = with_lora(model, cell.entry.lora_targets)
    batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in cell.entry.batch().items()}
    return model, make_optimizer(cell.way, model), batch


def with_lora(model: Any, targets: str | tuple[str, ...]) -> Any:
    import peft

    named = targets if isinstance(targets, str) else list(targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fan_in_fan_out of GPT-2, set by itself
        return peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=named), autocast_adapter_dtype=False)


def make_optimizer(way: str, model: Any) -> Any:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if way == "sgd":
        return torch.optim.SGD(parameters, lr=1e-3)
    if way == "adamw-8bit":
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(parameters, lr=1e-3)
    return torch.optim.AdamW(parameters, lr=1e-3)


def play(cell: Cell, seed: int = 0) -> RealStep:
    """Two real steps under the profiler, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, optimizer, batch = prepare(cell)
    resident = _bytes_of(itertools.chain(model.parameters(), model.buffers(), batch.values()))
    with memory_profile() as record:
        for step in _STEPS:
            with record_function(step):
                _step(model, optimizer, batch)
    return RealStep(resident, list(_allocations(record)))


def _step(model: Any, optimizer: Any, batch: dict[str, torch.Tensor]) -> None:
    with record_function("forward"):
        loss = model(**batch).loss
    with record_function("backward"):
        loss.backward()
    with record_function("optimizer"):
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    del loss


def _bytes_of(tensors: Any) -> int:
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def _allocations(record: Any) -> Iterator[Allocation]:
    """The profiler's allocation events in order, each with the names of the ranges and ops around it."""
    found: list[tuple[int, Allocation]] = []
    waiting = [(event, ()) for event in record.profiler.kineto_results.experimental_event_tree()]
    while waiting:
        event, path = waiting.pop()
        if event.name == "[memory]":
            fields = event.extra_fields
            found.append((event.start_time_ns, Allocation(fields.alloc_size, fields.ptr, path)))
        waiting += [(child, (*path, event.name)) for child in event.children]
    found.sort(key=lambda pair: pair[0])
    return (allocation for _, allocation in found)

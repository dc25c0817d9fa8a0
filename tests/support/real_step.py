"""The same training step twice: really played on the CPU under PyTorch's profiler, and traced on fake tensors.

A cell is one architecture of the zoo in one precision, with or without checkpointing, under one way to optimize. Both
sides take their model, optimizer and loop from ``memprof.workload``, so that they differ in the tensors alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import record_function

from memprof.allocator import folded
from memprof.model.scenario import Adapter, Optimizer, Scenario
from memprof.model.timeline import Phase
from memprof.semantics.device import Semantics
from memprof.trace.engine import trace
from memprof.workload.build import prepare
from memprof.workload.loops import autocast_on, loop_of
from memprof.workload.workload import Workload, own_loss
from tests.support.memory_profile import memory_profile
from tests.support.zoo import ZOO, Entry

CPU = Semantics(kind="cpu", architecture="cpu", num_threads=1)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHECKPOINTING = ("none", "full")
_RANGES = frozenset(("load", "first_step", "step", "forward", "backward", "optimizer"))
WAYS = ("adamw", "sgd", "adamw-8bit", "lora")


class Step(Protocol):
    """What is run on both sides."""

    @property
    def scenario(self) -> Scenario: ...

    def workload(self) -> Workload: ...


class Cell(NamedTuple):
    """One case of the grid; ``way`` is the optimizer, or LoRA of rank 8 under AdamW."""

    entry: Entry
    precision: str
    checkpointing: str
    way: str

    def __str__(self) -> str:
        return "-".join((self.entry.name, self.precision, self.checkpointing, self.way))

    @property
    def scenario(self) -> Scenario:
        lora = self.way == "lora"
        name = "adamw" if lora else self.way
        return Scenario(
            model=self.entry.name,
            device="cpu",
            precision=self.precision,  # type: ignore[arg-type]
            checkpointing=self.checkpointing,  # type: ignore[arg-type]
            optimizer=Optimizer(name=name, implementation="for-loop"),  # type: ignore[arg-type]
            adapter=Adapter(rank=8, target_modules=self.entry.lora_targets) if lora else None,
        )

    def workload(self) -> Workload:
        dtype = DTYPES[self.precision]
        batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in self.entry.batch().items()}
        workload = Workload(model=self.entry.build(dtype), batch=lambda: batch, loss=own_loss)
        return prepare(workload, self.scenario)


@contextmanager
def same_dice() -> Iterator[None]:
    """Layers that models drop at random, and spans that they mask, are the same in each run.

    Other draws (dropout) take no numbers from the generator where tensors are fake, so the two runs would part.
    """
    dice = torch.Generator().manual_seed(0)
    rand = torch.rand

    def thrown(*size: Any, **options: Any) -> torch.Tensor:
        return rand(*size, **options | {"generator": dice} if size == ([],) else options)

    np.random.seed(0)
    with patch.object(torch, "rand", thrown):
        yield


def grid() -> Iterator[Cell]:
    for combination in itertools.product(ZOO, DTYPES, CHECKPOINTING, WAYS):
        yield Cell(*combination)


def pairwise() -> Iterator[Cell]:
    """Four cells an architecture, in which each two settings of two factors meet."""
    rest = tuple(itertools.product(DTYPES, CHECKPOINTING))
    for number, entry in enumerate(ZOO):
        for index, way in enumerate(WAYS):
            yield Cell(entry, *rest[(number + index) % len(rest)], way)


def traced_peaks(cell: Step) -> dict[str, int]:
    """Highest requested bytes that the trace engine says: of load, either step, and each phase of both."""
    with same_dice():
        peaks = folded.peaks(trace(cell.workload, cell.scenario, CPU).timeline)
    return peaks.phases | peaks.stages


# ---- what really happens ----


class Allocation(NamedTuple):
    """Bytes asked for (positive) or given back (negative), and the ranges and ops around it, outermost first."""

    num_bytes: int
    address: int
    path: tuple[str, ...]


class RealStep(NamedTuple):
    """``resident_bytes``: parameters, buffers and batch, alive before the first step; ``events`` follow in order."""

    resident_bytes: int
    events: list[Allocation]

    def peaks(self) -> dict[str, int]:
        """As ``traced_peaks``."""
        now = self.resident_bytes
        peaks = {"load": now}
        for event in self.events:
            before, now = now, now + event.num_bytes
            for name in _RANGES.intersection(event.path[:2]):
                peaks[name] = max(peaks.get(name, before), now)
        return peaks


class _Ranges(ExitStack):
    """Marks phases in the profile."""

    def phase(self, phase: Phase) -> None:
        self.close()
        self.enter_context(record_function(phase.value))


def real_step(cell: Step) -> RealStep:
    """A first and a second step on one thread.

    Raises:
        ModelError: the library refuses to checkpoint or to adapt this model.
    """
    torch.set_num_threads(CPU.num_threads)
    torch.manual_seed(0)
    workload = cell.workload()
    batch = workload.batch()
    resident = _bytes_of((*workload.model.parameters(), *workload.model.buffers(), *batch.values()))
    ranges = _Ranges()
    with same_dice(), memory_profile() as record:
        with record_function("load"):
            loop = loop_of(workload, cell.scenario, ranges, autocast_on("cpu"))
        for name in ("first_step", "step"):
            with record_function(name), ranges:
                loop.step(batch)
    return RealStep(resident, list(_allocations(record)))


def _bytes_of(tensors: tuple[Any, ...]) -> int:
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def _allocations(record: Any) -> Iterator[Allocation]:
    """The profiler's allocation events in order."""
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

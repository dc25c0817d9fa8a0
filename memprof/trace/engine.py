"""The trace engine's front door: a workload is played on fake tensors and becomes a Timeline."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

from memprof.model.scenario import Scenario
from memprof.model.timeline import Component, Phase, Timeline
from memprof.semantics.device import Semantics
from memprof.semantics.optimizers import TORCHAO
from memprof.trace.attribution import Attribution
from memprof.trace.fakes import fake_device
from memprof.trace.flash_attn import flash_attn_library
from memprof.trace.library_versions import as_of, transformers_of
from memprof.trace.ranks import parallelism_seen, rank_zero
from memprof.trace.recorder import Recorder
from memprof.trace.refusals import explained
from memprof.trace.timeline import Stage, build, canonical, growth, replaces
from memprof.trace.torchao_updates import torchao_updates
from memprof.units import format_bytes
from memprof.workload.attention import only_kernel
from memprof.workload.loops import autocast_on, loop_of
from memprof.workload.parallel import replicate, shard
from memprof.workload.quantize import scales_of
from memprof.workload.workload import Workload

Progress = Callable[[str], None]


class Traced(NamedTuple):
    """A played step, what the real model has, and what is known to be missing."""

    timeline: Timeline
    num_parameters: int
    num_trainable: int
    left_out: tuple[str, ...]


def play(scenario: Scenario, config: dict[str, Any] | None, semantics: Semantics, progress: Progress) -> Traced:
    """Plays a scenario that ``workload.scenario`` completed.

    Raises:
        MemprofError: the model cannot be built, or its step cannot be traced.
    """
    from memprof.workload.build import build as build_workload

    return trace(lambda: build_workload(scenario, config), scenario, semantics, progress)


def trace(
    make: Callable[[], Workload], scenario: Scenario, semantics: Semantics, progress: Progress = lambda _: None
) -> Traced:
    """Plays load, a first and a second step (a third where steps hand something on).

    Args:
        make: builds the workload; called where tensors are fake.
        scenario: every default spelled out.
        semantics: whose kernels are played.
        progress: told what is being done.
    """
    attribution = Attribution()
    device = fake_device(semantics)
    recorder = Recorder(attribution, device.kernel, host_is_free=semantics.kind != "cpu")
    watcher = _Watcher(recorder, progress)
    parallelism, optimizer = scenario.parallelism, scenario.optimizer.name
    with (
        _no_garbage_collection(),
        explained(recorder),
        rank_zero(parallelism) as mesh,
        torchao_updates(recorder, TORCHAO[optimizer], semantics) if optimizer in TORCHAO else nullcontext(),
        device.fakes,
        transformers_of(semantics),
        flash_attn_library(semantics) if scenario.attention == "flash-attn" else nullcontext(),
    ):
        progress("building the model")
        workload = make()
        model = workload.model
        as_of(semantics, model)
        shard(model, scenario, mesh)
        attribution.name(model)
        recorder.op("load")
        _see_model(recorder, model)
        batch = workload.batch()
        for tensor in _tensors(batch):
            recorder.see(tensor, Component.INPUTS)
        with (
            recorder,
            device.kernels(recorder),
            only_kernel(scenario.attention),
            attribution.following(),
            parallelism_seen(recorder, parallelism, semantics),
        ):
            workload = replicate(workload, scenario, mesh)
            loop = loop_of(workload, scenario, watcher, autocast_on("cpu"))
            stages = [Stage("load", 0)]
            for name in ("first_step", "step", "step"):
                if len(stages) == 3 and not replaces(recorder, stages[-1]):
                    break
                stages.append(Stage(name, len(recorder.events)))
                progress(name.replace("_", " "))
                with _gradients_seen(recorder, model), _caches_seen(recorder, model):
                    loop.step(batch)
                for tensor in _state_tensors(loop.optimizer):
                    recorder.see(tensor, Component.OPTIMIZER_STATES)
        recorder.close()
        numbers = [(p.numel(), p.requires_grad) for p in model.parameters()]
        head = _head(model)
    return Traced(
        timeline=build(recorder, stages, head),
        num_parameters=sum(count for count, _ in numbers),
        num_trainable=sum(count for count, is_trained in numbers if is_trained),
        left_out=_left_out(recorder, stages),
    )


def _left_out(recorder: Recorder, stages: list[Stage]) -> tuple[str, ...]:
    more = growth(recorder, stages)
    return (f"later steps, each of which keeps {format_bytes(more)} more than the one before it",) if more > 0 else ()


class _Watcher:
    def __init__(self, recorder: Recorder, progress: Progress) -> None:
        self.recorder = recorder
        self.progress = progress

    def phase(self, phase: Phase) -> None:
        self.recorder.phase = phase
        self.progress(phase.value)


@contextmanager
def _gradients_seen(recorder: Recorder, model: Any) -> Iterator[None]:
    """Whatever becomes a parameter's gradient is one, as soon as it is."""

    def note(parameter: Any) -> None:
        if parameter.grad is not None:
            recorder.see(parameter.grad, Component.GRADIENTS)

    handles = [p.register_post_accumulate_grad_hook(note) for p in model.parameters() if p.requires_grad]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _caches_seen(recorder: Recorder, model: Any) -> Iterator[None]:
    """What a call of the model leaves in a key-value cache is that."""

    def note(_: Any, __: Any, outputs: Any) -> None:
        for layer in getattr(getattr(outputs, "past_key_values", None), "layers", ()):
            for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None)):
                if tensor is not None:
                    recorder.see(tensor, Component.KV_CACHE)

    handle = model.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _see_model(recorder: Recorder, model: Any) -> None:
    for tensor in model.parameters():
        recorder.see(tensor, Component.WEIGHTS)
        for part in scales_of(tensor):
            recorder.see(part, Component.WEIGHTS)
    for tensor in model.buffers():
        recorder.see(tensor, Component.BUFFERS)


def _tensors(batch: Any) -> list[Any]:
    import torch

    values = batch.values() if hasattr(batch, "values") else batch
    return [value for value in values if isinstance(value, torch.Tensor)]


def _state_tensors(optimizer: Any) -> Iterator[Any]:
    import torch

    for state in optimizer.state.values() if optimizer is not None else ():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                yield value


def _head(model: Any) -> str:
    """The path of the output embeddings, to which the loss is counted; empty where there are none."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find is not None else None
    return next((canonical(name) for name, module in model.named_modules() if module is head), "")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """What dies in a cycle dies when the collector comes; a real run's comes at other times."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

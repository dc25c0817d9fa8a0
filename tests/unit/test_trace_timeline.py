"""From a recording to a Timeline: names, components, segments and a last stage that repeats."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from memprof.allocator import folded
from memprof.model.timeline import Action, Component, Phase, Timeline, unroll_segment
from memprof.trace.attribution import Attribution
from memprof.trace.recorder import Recorder
from memprof.trace.timeline import Stage, build, canonical, growth, replaces


@pytest.mark.parametrize(
    ("module", "known_as"),
    [
        ("", ""),
        ("model.layers.11.self_attn.q_proj", "model.layers.*.self_attn.q_proj"),
        ("base_model.model.model.layers.3.mlp.up_proj.lora_A.default", "model.layers.*.mlp.up_proj"),
        ("base_model.model.model.layers.3.mlp.up_proj.base_layer", "model.layers.*.mlp.up_proj"),
        ("base_model.model", ""),
        ("module.transformer.h.0.attn", "transformer.h.*.attn"),
        ("encoder.block.0._checkpoint_wrapped_module.layer.1", "encoder.block.*.layer.*"),
        ("base_models.0", "base_models.*"),
    ],
)
def test_paths_are_those_that_hugging_face_prints(module: str, known_as: str) -> None:
    assert canonical(module) == known_as


class Run:
    """A recording made by hand: phases, births and deaths."""

    def __init__(self) -> None:
        self.recorder = Recorder(Attribution())
        self.recorder.op("load")
        self.stages = [Stage("load", 0)]

    def stage(self, name: str) -> None:
        self.stages.append(Stage(name, len(self.recorder.events)))

    def op(self, phase: Phase, name: str = "aten::mm") -> None:
        self.recorder.phase = phase
        self.recorder.op(name)

    def timeline(self) -> Timeline:
        return build(self.recorder, self.stages)


def repeats(timeline: Timeline) -> bool:
    """Whether the last stage can be played twice: it frees what is alive, and leaves what it found."""
    alive: set[int] = set()
    for event in timeline.unroll():
        assert (event.block in alive) == (event.action != Action.ALLOC)
        (alive.remove if event.block in alive else alive.add)(event.block)
    before = set(alive)
    for segment in timeline.schedule[-1][1]:
        for event in unroll_segment(timeline, segment):
            assert (event.block in alive) == (event.action != Action.ALLOC)
            (alive.remove if event.block in alive else alive.add)(event.block)
    return alive == before


def test_what_lives_from_the_forward_into_the_backward_is_an_activation() -> None:
    run = Run()
    run.stage("step")
    run.op(Phase.FORWARD)
    kept, dropped = run.recorder.born(100), run.recorder.born(10)
    run.recorder.dies(dropped)
    run.op(Phase.BACKWARD)
    scratch = run.recorder.born(1)
    run.recorder.dies(kept)
    run.recorder.dies(scratch)
    components = run.timeline().blocks.component
    assert components == [Component.ACTIVATIONS, Component.TEMPORARIES, Component.TEMPORARIES]


def test_what_steps_hand_on_goes_by_the_same_name_so_that_the_last_stage_repeats() -> None:
    run = Run()
    kept = None
    for name in ("first_step", "step", "step"):
        run.stage(name)
        run.op(Phase.FORWARD)
        new = run.recorder.born(64)
        if kept is not None:
            assert replaces(run.recorder, run.stages[-1]) is False
            run.recorder.dies(kept)
            assert replaces(run.recorder, run.stages[-1])
        kept = new
    assert growth(run.recorder, run.stages) == 0
    timeline = run.timeline()
    assert [name for name, _ in timeline.schedule] == ["load", "first_step", "step"]
    assert repeats(timeline)
    assert folded.peaks(timeline).num_bytes == 128


def test_growth_from_step_to_step_is_told() -> None:
    run = Run()
    for name in ("first_step", "step"):
        run.stage(name)
        run.op(Phase.FORWARD)
        run.recorder.born(48)
    assert growth(run.recorder, run.stages) == 48


def test_a_segment_begins_where_stage_phase_or_layer_do() -> None:
    run = Run()
    run.stage("first_step")
    for phase in (Phase.FORWARD, Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER):
        run.op(phase)
        run.recorder.dies(run.recorder.born(8))
    run.stage("step")
    run.op(Phase.OPTIMIZER)
    run.recorder.dies(run.recorder.born(8))
    timeline = run.timeline()
    sizes = [len(timeline.segments[index].action) for _, segments in timeline.schedule for index in segments]
    assert [size for size in sizes if size] == [4, 2, 2, 2]


def test_a_storage_lives_as_long_as_python_or_autograd_holds_it() -> None:
    attribution = Attribution()
    with FakeTensorMode():
        weight = torch.randn(8, 8, requires_grad=True)
        with Recorder(attribution) as recorder:
            recorder.see(weight, Component.WEIGHTS)
            recorder.phase = Phase.FORWARD
            hidden = (weight * 2).relu()
            loss = hidden.sum()
            del hidden
            alive_in_forward = len(recorder.lives) - len(recorder.died_in_forward)
            recorder.phase = Phase.BACKWARD
            loss.backward()
            del loss
        recorder.close()
    names = [op.name for op in recorder.ops]
    assert [name for name in names if name != "aten::detach"][:3] == ["aten::mul", "aten::relu", "aten::sum"]
    assert alive_in_forward == 3  # weight, relu's result for its backward, the loss
    assert [life.num_bytes for life in recorder.lives[:4]] == [256, 256, 256, 4]


def test_a_resized_storage_is_another_block() -> None:
    with FakeTensorMode():
        tensor = torch.empty(16)
        with Recorder(Attribution()) as recorder:
            recorder.see(tensor)
            tensor.resize_(64)
        recorder.close()
    assert recorder.events == [0, 1, ~0]
    assert [life.num_bytes for life in recorder.lives] == [64, 256]

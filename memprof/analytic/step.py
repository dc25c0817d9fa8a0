"""The step: load, forward, loss, backward, optimizer, zero_grad - or prefill and decode - played into one Timeline."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import msgspec

from memprof.analytic.autograd import Leaf, Shape, Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.inference import Inference
from memprof.analytic.ops.loss import causal_lm_loss, chunked_loss
from memprof.analytic.ops.pointwise import mul
from memprof.analytic.optimizer import OptimizerPlay
from memprof.analytic.parameters import Loading, load
from memprof.analytic.program import Program
from memprof.analytic.strategies import strategy_for
from memprof.analytic.stretch import Stretch
from memprof.analytic.tape import Storage, Tape
from memprof.model.architecture import Architecture
from memprof.model.scenario import Scenario
from memprof.model.timeline import Component, Phase, Timeline
from memprof.semantics.clipping import SCALER_STATES, clip_grad_norm_events
from memprof.semantics.device import Semantics
from memprof.semantics.optimizer_program import Program as Steps
from memprof.semantics.optimizers import OptimizerRule
from memprof.semantics.precision import Plan

Result = TypeVar("Result")
Forward = Callable[[Program, Tensor], Tensor]


class Setting(msgspec.Struct, frozen=True):
    """A scenario with everything looked up that its step depends on."""

    architecture: Architecture
    scenario: Scenario
    semantics: Semantics
    plan: Plan
    loading: Loading
    optimizer: OptimizerRule | None
    forward: Forward
    head: str
    sequence_length: int


class Saved(msgspec.Struct, frozen=True):
    """A storage that autograd keeps over the forward pass: who saved it, its bytes, how many layers have its like."""

    op: str
    module: str
    num_bytes: int
    count: int
    shape: Shape
    dtype: str


class Played:
    """A played step: its timeline, how many parameters it trains, and what is known to be missing, in words."""

    def __init__(self, timeline: Timeline, num_trainable: int, graph: Graph) -> None:
        self.timeline = timeline
        self.num_trainable = num_trainable
        self.unknown = sorted(graph.unknown)
        self._raw = graph.saved

    @cached_property
    def saved(self) -> list[Saved]:
        """What autograd saves in the micro-steps that were played, each storage once, parameters left out.

        What a run's layer saves of its input is, from the second layer on, the body of that carry; the last layer's
        body is saved by what comes after the run, if at all.
        """
        timeline = self.timeline
        carried = {body: 1 for run in timeline.runs for _, body, way in run.carries if way > 0}
        again = {entry: run.count for run in timeline.runs for entry, _, way in run.carries if way > 0}
        out = []
        for op, module, shape, dtype, block in self._raw:
            run = timeline.segments[timeline.blocks.segment[block]].run
            count = carried.get(block, timeline.runs[run].count if run >= 0 else 1)
            num_bytes = timeline.blocks.num_bytes[block]
            out.append(Saved(op, module, num_bytes, count + again.get(block, 1) - 1, shape, dtype))
        return out


class Step:
    """Plays one scenario; used once."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.tape = Tape()
        self.graph = Graph(self.tape, setting.semantics)
        self.strategy = strategy_for(self.graph, setting.plan, setting.scenario.parallelism)
        self.program = Program(self.graph, setting.architecture, setting.scenario, self.strategy)
        self.schedule: list[tuple[str, list[int]]] = []
        self.stretches: list[Stretch] = []
        self.scale: Tensor | None = None

    def play(self) -> Played:
        scenario = self.setting.scenario
        self.stretches = self._stage("load", self._load)
        ids, labels = self._stage("load", self._inputs)
        if scenario.mode == "train":
            self._train(ids, labels)
        else:
            self._infer(ids)
        tape = self.tape
        trainable = sum(s.count * t.tensor.numel for s in self.stretches for t in s.trained)
        return Played(tape.timeline(self.schedule), trainable, self.graph)

    # ---- pieces ----

    def _stage(self, name: str, play: Callable[[], Result]) -> Result:
        """Plays something and adds the segments it recorded to the schedule."""
        first = self.tape.num_segments
        self.tape.segment(name)
        result = play()
        self.schedule.append((name, list(range(first, self.tape.num_segments))))
        return result

    def _load(self) -> list[Stretch]:
        stretches = load(self.program, self.setting.loading)
        self.strategy.loaded(stretches)
        return stretches

    def _inputs(self) -> tuple[Tensor, Tensor]:
        batch = self.setting.scenario.batch.micro_batch_size
        shape = (batch, self.setting.sequence_length)
        self.tape.op("inputs")
        pair = []
        for _ in range(2 if self.setting.scenario.mode == "train" else 1):
            tensor = self.graph.new(shape, "int64")
            self.tape.component[tensor.storage.block] = Component.INPUTS
            self.tape.survivors.append(tensor.storage)
            pair.append(tensor)
        return pair[0], pair[-1]

    def _train(self, ids: Tensor, labels: Tensor) -> None:
        scenario, rule = self.setting.scenario, self.setting.optimizer
        assert rule is not None
        updates = OptimizerPlay(self.tape, *self.strategy.updated(self.stretches))
        self._stage("load", lambda: updates.play(rule.construction, "optimizer"))
        tape = self.tape

        first = self._micro_steps(ids, labels)
        clip = self._record(self._clip)
        lasting = self._lasting()
        first_update = self._record(lambda: self._update(updates, rule.first_step))
        update = self._record(lambda: self._update(updates, rule.steady_step))
        zero = self._record(self._zero_grad)
        rebuilt = self._record(self.strategy.second_step)

        zero_at_start = scenario.loop.zero_grad == "start"
        first += clip
        self.schedule.append(("first_step", first + first_update + ([] if zero_at_start else zero)))
        if tape.has_events(rebuilt):
            self.schedule.append(("step", rebuilt))
        once = tape.once_segments
        steps = [([index for index in first if index not in once], zero)]
        if scenario.loop.keep_outputs:
            steps = self._two_steps(ids, labels, lasting)
        segments: list[int] = []
        for micro, cleared in steps:
            segments += zero + micro + update if zero_at_start else micro + update + cleared
            zero = cleared
        self.schedule.append(("step", segments))

    def _two_steps(self, ids: Tensor, labels: Tensor, lasting: list[int]) -> list[tuple[list[int], list[int]]]:
        """Two more steps, each with what clears its gradients: the first lets go of what the step before it left.

        What the second leaves takes the place of what the first step of all left, so that the two can be repeated.
        """
        steps = []
        start = 0
        for _ in range(2):
            start = self.tape.num_segments
            micro = self._micro_steps(ids, labels) + self._record(self._clip)
            left = self._lasting()
            steps.append((micro, self._record(self._zero_grad)))
        self.tape.rename(start, dict(zip(left, lasting, strict=True)))
        return steps

    def _lasting(self) -> list[int]:
        """Blocks that a step leaves to the next one: the model's outputs, and gradients that are not cleared yet."""
        outputs = [storage.block for storage in self.program.outputs]
        zero_at_start = self.setting.scenario.loop.zero_grad == "start"
        return outputs + (self.strategy.gradients(self.stretches) if zero_at_start else [])

    def _record(self, play: Callable[[], object]) -> list[int]:
        """Plays something in segments of its own and returns them."""
        first = self.tape.num_segments
        self.tape.segment("")
        play()
        return list(range(first, self.tape.num_segments))

    def _micro_steps(self, ids: Tensor, labels: Tensor) -> list[int]:
        """The segments of a step's forwards and backwards; from the second micro-step on gradients are there."""
        segments = self._record(lambda: self._micro_step(ids, labels))
        more = self.setting.scenario.batch.gradient_accumulation_steps - 1
        return segments + self._record(lambda: self._micro_step(ids, labels)) * more if more else segments

    def _micro_step(self, ids: Tensor, labels: Tensor) -> None:
        g, tape, program = self.graph, self.tape, self.program
        tape.phase = Phase.FORWARD
        for stretch in self.stretches:
            for trained in stretch.trained:
                assert isinstance(trained.tensor.node, Leaf)
                trained.tensor.node.pending = 0
        program.num_units = 0
        program.begin("embedding")
        self.strategy.forward_begin()
        g.enter_autocast(self.setting.plan.compute if self.setting.plan.autocast else None)
        loss = self._loss(ids, labels)
        g.exit_autocast()
        program.let_go_of_outputs()
        if self.setting.plan.scaler == "torch":
            loss = self._scaled(loss)
        tape.phase = Phase.BACKWARD
        box = [loss]
        del loss
        program.backward(box)

    def _scaled(self, loss: Tensor) -> Tensor:
        """``GradScaler.scale``: the scaler's own tensors are made with its first call."""
        if self.scale is None:
            for _, num_bytes in SCALER_STATES:
                self.tape.once(num_bytes, Component.OPTIMIZER_STATES)
            self.scale = Tensor((), 1, "float32", self.tape.survivors[-2])
        return mul(self.graph, loss, self.scale)

    def _loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        """``ForCausalLM.forward``; the logits die with the output object, whose loss alone is kept by default."""
        program = self.program
        hidden = self.setting.forward(program, ids)
        weight = program.root[self.setting.head]
        if self.setting.scenario.loss == "chunked":
            program.root.enter("lm_head")
            loss = chunked_loss(self.graph, hidden, labels, lambda chunk: program.logits(chunk, weight))
        else:
            logits = program.logits(hidden, weight)
            program.keep_output(logits)
            loss = causal_lm_loss(self.graph, logits, labels)
        self.strategy.forward_end()
        return loss

    def _clip(self) -> None:
        """``clip_grad_norm_`` over all gradients, and before it the scaler's look for infinities."""
        tape, kind = self.tape, self.graph.semantics.kind
        tape.phase, tape.module = Phase.OPTIMIZER, ""
        self.strategy.gradients_done()
        if self.setting.scenario.loop.clip_grad_norm is None or self.strategy.clips:
            return
        tape.op("clip_grad_norm_")
        numels: dict[str, list[int]] = {}
        for stretch in self.stretches:
            for trained in stretch.trained:
                numels.setdefault(trained.tensor.dtype, []).extend([trained.tensor.numel] * stretch.count)
        for dtype, sizes in numels.items():
            held: dict[str, list[Storage]] = {}
            for action, name, num_bytes in clip_grad_norm_events(sizes, dtype, kind):
                if action == "alloc":
                    held.setdefault(name, []).append(tape.alloc(num_bytes))
                else:
                    held[name].pop()

    def _update(self, updates: OptimizerPlay, program: Steps) -> None:
        self.tape.phase = Phase.OPTIMIZER
        self.tape.module = ""
        self.strategy.step_begin()
        updates.play(program, "optimizer")
        self.tape.segment("optimizer end")
        self.strategy.step_end()

    def _zero_grad(self) -> None:
        for stretch in self.stretches:
            self.tape.segment(f"zero_grad {stretch.name}", stretch.run)
            self.strategy.zero_grad(stretch)

    def _infer(self, ids: Tensor) -> None:
        segments = self._record(lambda: Inference(self.program, self.setting).play(ids))
        self.schedule.append(("first_step", segments))
        self.schedule.append(("step", [index for index in segments if index not in self.tape.once_segments]))

"""From what was recorded to a Timeline: segments, components, canonical module paths, and a stage to repeat."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from memprof.model.timeline import Action, Blocks, Component, Ops, Phase, Segment, Timeline
from memprof.trace.recorder import Op, Recorder

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:base_model(?:\.model)?|_orig_mod|_checkpoint_wrapped_module|module)(?:\.|$)")
_ADAPTER = re.compile(r"\.(?:base_layer|lora_(?:A|B|dropout|embedding_[AB]|magnitude_vector)(?:\.\w+)?)(?=\.|$)")
_INDEX = re.compile(r"\.\d+(?=\.|$)")
_BLOCK = re.compile(r".*?\.\d+(?=\.|$)")


class Stage(NamedTuple):
    """A stage of the schedule: its name and the number of events before it."""

    name: str
    first_event: int


def canonical(module: str) -> str:
    """A module's path as Hugging Face names it, wrappers taken away and layer indices starred."""
    return _INDEX.sub(".*", _plain(module))


def build(recorder: Recorder, stages: Sequence[Stage], head: str = "") -> Timeline:
    """The Timeline of a recording; the last stage is one that can be played again and again.

    Args:
        recorder: what was recorded.
        stages: ``load``, ``first_step``, one or more named ``step``.
        head: the module that the loss is counted to, as it runs in the model itself.
    """
    events = _repeatable(recorder, stages)
    names = {module: canonical(module) or head for module in {op.module for op in recorder.ops}}
    cuts, labels = _segments(recorder, stages, len(events))
    op_of = _op_of(recorder.ops, len(events))
    home = [0] * len(recorder.lives)
    segments = []
    for index, (begin, end) in enumerate(zip(cuts, [*cuts[1:], len(events)], strict=True)):
        part = events[begin:end]
        for event in part:
            if event >= 0:
                home[event] = index
        segments.append(
            Segment(
                name=labels[index],
                run=-1,
                order=1,
                action=[int(Action.ALLOC if event >= 0 else Action.FREE) for event in part],
                block=[event if event >= 0 else ~event for event in part],
                op=op_of[begin:end],
            )
        )
    starts = [*(stage.first_event for stage in stages), len(events) + 1]
    schedule = [
        (stage.name, [i for i, cut in enumerate(cuts) if start <= cut < end])
        for stage, start, end in zip(stages, starts[:-1], starts[1:], strict=True)
    ]
    count = len(recorder.ops)
    return Timeline(
        ops=Ops(
            name=[op.name for op in recorder.ops],
            module=[names[op.module] for op in recorder.ops],
            phase=[op.phase for op in recorder.ops],
            flops=[0] * count,
            bytes_moved=[0] * count,
        ),
        blocks=Blocks(
            num_bytes=[life.num_bytes for life in recorder.lives],
            component=[_component(recorder, block) for block in range(len(recorder.lives))],
            stream=[life.stream for life in recorder.lives],
            segment=home,
        ),
        segments=segments,
        runs=[],
        schedule=_joined(schedule),
    )


def growth(recorder: Recorder, stages: Sequence[Stage]) -> int:
    """Bytes by which the last stage leaves more than it found; 0 where steps repeat themselves."""
    start = stages[-1].first_event
    born, died = _changes(recorder.events[start:])
    return sum(recorder.lives[b].num_bytes for b in born) - sum(recorder.lives[b].num_bytes for b in died)


def replaces(recorder: Recorder, stage: Stage) -> bool:
    """Whether the last stage lets go of blocks that were there before it, and leaves others in their place."""
    return bool(_changes(recorder.events[stage.first_event :])[1])


def _joined(schedule: list[tuple[str, list[int]]]) -> list[tuple[str, list[int]]]:
    """Steps that follow each other become one stage."""
    out: list[tuple[str, list[int]]] = []
    for name, segments in schedule:
        if out and out[-1][0] == name:
            out[-1] = (name, out[-1][1] + segments)
        else:
            out.append((name, segments))
    return out


def _changes(events: Iterable[int]) -> tuple[list[int], list[int]]:
    """Blocks that were born and live on, and blocks that were there before and died, in order."""
    born: dict[int, None] = {}
    died = []
    for event in events:
        if event >= 0:
            born[event] = None
        elif ~event in born:
            del born[~event]
        else:
            died.append(~event)
    return list(born), died


def _repeatable(recorder: Recorder, stages: Sequence[Stage]) -> list[int]:
    """The events, in which what the steps leave goes by the names of what they found, where sizes agree."""
    start = next((stage.first_event for stage in stages if stage.name == "step"), len(recorder.events))
    events = list(recorder.events)
    born, died = _changes(events[start:])
    by_size: dict[int, list[int]] = {}
    for block in sorted(died):
        by_size.setdefault(recorder.lives[block].num_bytes, []).append(block)
    renamed = {}
    for block in born:
        old = by_size.get(recorder.lives[block].num_bytes)
        if old:
            renamed[block] = old.pop(0)
    names = renamed | {~block: ~other for block, other in renamed.items()}
    events[start:] = [names.get(event, event) for event in events[start:]]
    return events


def _component(recorder: Recorder, block: int) -> Component:
    known = recorder.components.get(block) or recorder.lives[block].purpose
    if known is not None:
        return known
    if recorder.lives[block].in_forward and not recorder.died_in_forward.get(block, False):
        return Component.ACTIVATIONS
    return Component.TEMPORARIES


def _op_of(ops: Sequence[Op], num_events: int) -> list[int]:
    out = [-1] * (ops[0].first_event if ops else num_events)
    for index, op in enumerate(ops):
        end = ops[index + 1].first_event if index + 1 < len(ops) else num_events
        out += [index] * (end - op.first_event)
    return out


def _segments(recorder: Recorder, stages: Sequence[Stage], num_events: int) -> tuple[list[int], list[str]]:
    """Where a stage, a phase or a layer begins, and what it is called."""
    cuts: list[int] = []
    labels: list[str] = []
    starts = {stage.first_event for stage in stages}
    before: tuple[Phase, str] | None = None
    for op in recorder.ops:
        layer = _layer(op.module)
        if (op.phase, layer) != before or op.first_event in starts:
            starts.discard(op.first_event)
            if cuts and cuts[-1] == op.first_event:
                labels[-1] = layer
            else:
                cuts.append(op.first_event)
                labels.append(layer)
            before = (op.phase, layer)
    if not cuts or cuts[0] > 0:
        cuts.insert(0, 0)
        labels.insert(0, "")
    for start in sorted(starts):
        if start < num_events:
            cuts.append(start)
            labels.append("")
    order = sorted(range(len(cuts)), key=cuts.__getitem__)
    return [cuts[i] for i in order], [labels[i] for i in order]


def _layer(module: str) -> str:
    match = _BLOCK.match(_plain(module))
    return match[0] if match else ""


def _plain(module: str) -> str:
    return _ADAPTER.sub("", _WRAPPERS.sub("", module))

"""The recorder: turns the lives of symbolic storages into a Timeline, one layer of a run standing for all.

A storage lives exactly as long as something refers to it - a variable of the program, an autograd node that saved it,
a gradient slot - because its death is Python's own (``Storage.__del__``). Model programs that are written with the
scoping of the library's code therefore free their tensors where the library frees them.

Recording is the hot path of every estimate, so events are bare numbers (``block`` allocates, ``~block`` frees) and
columns are filled in when the tape is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from memprof.model.timeline import Action, Blocks, Component, Ops, Phase, Run, Segment, Timeline

_ALLOC, _FREE = int(Action.ALLOC), int(Action.FREE)
_TEMPORARIES = Component.TEMPORARIES


class Storage:
    """Bytes on the device. ``uses`` counts the gradient slots that hold it, as ``use_count()`` would.

    ``block`` is -1 for storages that take no device memory (size zero, host tensors, skipped recomputation).
    """

    __slots__ = ("block", "emit", "uses")

    def __init__(self, block: int, emit: Callable[[int], None]) -> None:
        self.block = block
        self.emit = emit
        self.uses = 0

    def __del__(self) -> None:
        if self.block >= 0:
            self.emit(~self.block)


class Mark(NamedTuple):
    """A place on the tape: events and ops so far."""

    event: int
    op: int


class _Start(NamedTuple):
    """Where a segment starts, and what it is."""

    name: str
    run: int
    order: int
    event: int
    block: int


class Tape:
    """Grows while a program plays; ``timeline`` closes it.

    Attributes:
        phase, module: of the ops that start now.
        paused: nothing is allocated: a checkpoint's recomputation has gone far enough.
        component: of blocks that are not temporaries.
        stream: of blocks that are not on the compute stream.
        survivors: keeps storages alive to the end.
        once_segments: segments that later steps do not repeat.
    """

    def __init__(self) -> None:
        self.phase = Phase.LOAD
        self.module = ""
        self.paused = False
        self.num_bytes: list[int] = []
        self.component: dict[int, Component] = {}
        self.stream: dict[int, int] = {}
        self.survivors: list[Storage] = []
        self.once_segments: set[int] = set()
        self._events: list[int] = []
        self._emit = self._events.append
        self._ops: list[tuple[str, str, Phase, int, int, int]] = []
        self._starts: list[_Start] = []
        self._runs: list[tuple[str, int]] = []
        self._carries: dict[int, set[tuple[int, int, int]]] = {}
        self.segment("")

    # ---- segments and runs ----

    @property
    def num_segments(self) -> int:
        return len(self._starts)

    def segment(self, name: str, run: int = -1, order: int = 1) -> int:
        """Starts a segment and returns its index."""
        self._starts.append(_Start(name, run, order, len(self._events), len(self.num_bytes)))
        return len(self._starts) - 1

    def new_run(self, name: str, count: int) -> int:
        """A run of ``count`` identical layers; returns its index."""
        self._runs.append((name, count))
        return len(self._runs) - 1

    def carry(self, run: int, entry: int, body: int, way: int) -> None:
        """Within the run, ``entry`` stands for the neighbour's ``body``: see ``model.timeline.Run``."""
        if entry != body:
            self._carries.setdefault(run, set()).add((entry, body, way))

    def once(self, num_bytes: int, component: Component) -> None:
        """A block that is asked for here the first time and then kept for life, so that later steps do not ask again.

        It gets a segment of its own (in ``once_segments``), and the interrupted segment goes on in a new one.
        """
        name, _, order, _, _ = self._starts[-1]
        self.once_segments.add(self.segment(name, -1, order))
        self.survivors.append(self.alloc(num_bytes, component))
        self.segment(name, -1, order)

    # ---- ops and events ----

    def op(self, name: str, flops: int = 0, moved: int = 0) -> None:
        """Starts an op: the events that follow are its doing."""
        self._ops.append((name, self.module, self.phase, flops, moved, len(self._events)))

    @property
    def last_op(self) -> str:
        return self._ops[-1][0]

    def alloc(self, num_bytes: int, component: Component = _TEMPORARIES, stream: int = 0) -> Storage:
        """Asks for a block; none for zero bytes, or while a recomputation is skipped."""
        emit = self._emit
        if num_bytes <= 0 or self.paused:
            return Storage(-1, emit)
        sizes = self.num_bytes
        block = len(sizes)
        sizes.append(num_bytes)
        emit(block)
        if component is not _TEMPORARIES:
            self.component[block] = component
        if stream:
            self.stream[block] = stream
        return Storage(block, emit)

    def placeholder(self) -> Storage:
        """A block of no bytes: what a run's first layer meets where later layers meet their neighbour's block."""
        block = len(self.num_bytes)
        self.num_bytes.append(0)
        self._emit(block)
        return Storage(block, self._emit)

    def mark(self) -> Mark:
        return Mark(len(self._events), len(self._ops))

    def move_back(self, start: Mark, middle: Mark) -> None:
        """Puts what was recorded from ``middle`` on before what was recorded from ``start`` on, in one segment."""
        events, ops = self._events, self._ops
        events[start.event :] = events[middle.event :] + events[start.event : middle.event]
        earlier, later = middle.event - start.event, len(events) - middle.event
        ops[start.op :] = [(*op[:5], op[5] - earlier) for op in ops[middle.op :]] + [
            (*op[:5], op[5] + later) for op in ops[start.op : middle.op]
        ]

    def rename(self, first_segment: int, blocks: dict[int, int]) -> None:
        """From a segment on, one block goes by the name of another of its size, so that segments can be repeated."""
        start = self._starts[first_segment].event
        names = blocks | {~block: ~other for block, other in blocks.items()}
        self._events[start:] = [names.get(event, event) for event in self._events[start:]]

    # ---- closing ----

    def runs(self) -> list[Run]:
        return [
            Run(name=name, count=count, carries=tuple(sorted(self._carries.get(index, ()))))
            for index, (name, count) in enumerate(self._runs)
        ]

    def has_events(self, segments: list[int]) -> bool:
        ends = [start.event for start in self._starts[1:]] + [len(self._events)]
        return any(ends[index] > self._starts[index].event for index in segments)

    def timeline(self, schedule: list[tuple[str, list[int]]]) -> Timeline:
        """Closes the tape; storages that die later are the step's survivors and cause no event."""
        events, starts, num_blocks = list(self._events), self._starts, len(self.num_bytes)
        runs = self.runs()
        for run in runs:
            for entry, body, way in run.carries:
                if way > 0 and self.component.get(entry) is Component.ACTIVATIONS:
                    self.component.setdefault(body, Component.ACTIVATIONS)
        component = [_TEMPORARIES] * num_blocks
        for block, kind in self.component.items():
            component[block] = kind
        stream = [0] * num_blocks
        for block, number in self.stream.items():
            stream[block] = number

        name, module, phase, flops, moved, first = map(list, zip(*self._ops, strict=True))
        op_of: list[int] = [-1] * first[0]
        for index, (begin, end) in enumerate(zip(first, [*first[1:], len(events)], strict=True)):
            if end > begin:
                op_of += [index] * (end - begin)
        home: list[int] = []
        segments = []
        for index, (start, end) in enumerate(
            zip(starts, [*starts[1:], _Start("", -1, 1, len(events), num_blocks)], strict=True)
        ):
            home += [index] * (end.block - start.block)
            part = events[start.event : end.event]
            segments.append(
                Segment(
                    name=start.name,
                    run=start.run,
                    order=start.order,
                    action=[_ALLOC if event >= 0 else _FREE for event in part],
                    block=[event if event >= 0 else ~event for event in part],
                    op=op_of[start.event : end.event],
                )
            )
        return Timeline(
            ops=Ops(name=name, module=module, phase=phase, flops=flops, bytes_moved=moved),
            blocks=Blocks(num_bytes=self.num_bytes, component=component, stream=stream, segment=home),
            segments=segments,
            runs=runs,
            schedule=schedule,
        )

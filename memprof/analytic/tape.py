"""The recorder: turns the lives of symbolic storages into a Timeline, one layer of a run standing for all.

A storage lives exactly as long as something refers to it - a variable of the program, an autograd node that saved it,
a gradient slot - because its death is Python's own (``Storage.__del__``). Model programs that are written with the
scoping of the library's code therefore free their tensors where the library frees them.
"""

from __future__ import annotations

from memprof.model.timeline import Action, Blocks, Component, Ops, Phase, Run, Segment, Timeline

_ALLOC, _FREE = int(Action.ALLOC), int(Action.FREE)


class Storage:
    """Bytes on the device. ``uses`` counts the gradient slots that hold it, as ``use_count()`` would.

    ``block`` is -1 for storages that take no device memory (size zero, host tensors, skipped recomputation).
    """

    __slots__ = ("block", "tape", "uses")

    def __init__(self, tape: Tape, block: int) -> None:
        self.tape = tape
        self.block = block
        self.uses = 0

    def __del__(self) -> None:
        if self.block >= 0:
            self.tape.free(self.block)


class Tape:
    """Columns that grow while a program plays; ``timeline`` closes it."""

    def __init__(self) -> None:
        self.num_bytes: list[int] = []
        self.component: list[Component] = []
        self.stream: list[int] = []
        self.home: list[int] = []
        self.segments: list[Segment] = []
        self.run_counts: list[tuple[str, int]] = []
        self.carries: dict[int, set[tuple[int, int, int]]] = {}
        self.op_name: list[str] = []
        self.op_module: list[str] = []
        self.op_phase: list[Phase] = []
        self.op_flops: list[int] = []
        self.op_moved: list[int] = []
        self.phase = Phase.LOAD
        self.module = ""
        self.closed = False
        self.paused = False
        self.once_segments: set[int] = set()
        self.survivors: list[Storage] = []
        self._begin("", -1, 1)

    def _begin(self, name: str, run: int, order: int) -> int:
        self._actions: list[int] = []
        self._blocks: list[int] = []
        self._op_of: list[int] = []
        self.segments.append(
            Segment(name=name, run=run, order=order, action=self._actions, block=self._blocks, op=self._op_of)
        )
        self._segment = len(self.segments) - 1
        return self._segment

    def segment(self, name: str, run: int = -1, order: int = 1) -> int:
        """Starts a segment and returns its index."""
        return self._begin(name, run, order)

    def op(self, name: str, flops: int = 0, moved: int = 0) -> None:
        """Starts an op: the events that follow are its doing."""
        self.op_name.append(name)
        self.op_module.append(self.module)
        self.op_phase.append(self.phase)
        self.op_flops.append(flops)
        self.op_moved.append(moved)

    def new_run(self, name: str, count: int) -> int:
        """A run of ``count`` identical layers; returns its index."""
        self.run_counts.append((name, count))
        return len(self.run_counts) - 1

    def carry(self, run: int, entry: int, body: int, way: int) -> None:
        """Within the run, ``entry`` stands for the neighbour's ``body``: see ``model.timeline.Run``."""
        if entry != body:
            self.carries.setdefault(run, set()).add((entry, body, way))

    def placeholder(self) -> Storage:
        """A block of no bytes: what a run's first layer meets where later layers meet their neighbour's block."""
        return self._record(0, Component.TEMPORARIES, 0)

    def alloc(self, num_bytes: int, component: Component = Component.TEMPORARIES, stream: int = 0) -> Storage:
        """Asks for a block; none for zero bytes, or while a recomputation is skipped."""
        if num_bytes <= 0 or self.paused:
            return Storage(self, -1)
        return self._record(num_bytes, component, stream)

    def _record(self, num_bytes: int, component: Component, stream: int) -> Storage:
        block = len(self.num_bytes)
        self.stream.append(stream)
        self.num_bytes.append(num_bytes)
        self.component.append(component)
        self.home.append(self._segment)
        self._actions.append(_ALLOC)
        self._blocks.append(block)
        self._op_of.append(len(self.op_name) - 1)
        return Storage(self, block)

    def free(self, block: int) -> None:
        if self.closed:
            return
        self._actions.append(_FREE)
        self._blocks.append(block)
        self._op_of.append(len(self.op_name) - 1)

    def temporary(self, num_bytes: int, component: Component = Component.TEMPORARIES) -> None:
        """A block that is freed before the next one is asked for."""
        self.alloc(num_bytes, component)

    def once(self, num_bytes: int, component: Component) -> None:
        """A block that is asked for here the first time and then kept for life, so that later steps do not ask again.

        It gets a segment of its own (in ``once_segments``), and the interrupted segment goes on in a new one.
        """
        name, order = self.segments[-1].name, self.segments[-1].order
        self.once_segments.add(self._begin(name, -1, order))
        self.survivors.append(self.alloc(num_bytes, component))
        self._begin(name, -1, order)

    def num_events(self, segments: list[int]) -> int:
        return sum(len(self.segments[index].action) for index in segments)

    def mark(self) -> int:
        """The number of events in the current segment."""
        return len(self._actions)

    def move_back(self, start: int, middle: int) -> None:
        """Puts the events from ``middle`` on before those from ``start`` on."""
        for column in (self._actions, self._blocks, self._op_of):
            column[start:] = column[middle:] + column[start:middle]

    def runs(self) -> list[Run]:
        return [
            Run(name=name, count=count, carries=tuple(sorted(self.carries.get(index, ()))))
            for index, (name, count) in enumerate(self.run_counts)
        ]

    def timeline(self, schedule: list[tuple[str, list[int]]]) -> Timeline:
        """Closes the tape; storages that die later are the step's survivors and cause no event."""
        self.closed = True
        return Timeline(
            ops=Ops(
                name=self.op_name,
                module=self.op_module,
                phase=self.op_phase,
                flops=self.op_flops,
                bytes_moved=self.op_moved,
            ),
            blocks=Blocks(
                num_bytes=self.num_bytes,
                component=self.component,
                stream=self.stream,
                segment=self.home,
            ),
            segments=self.segments,
            runs=self.runs(),
            schedule=schedule,
        )

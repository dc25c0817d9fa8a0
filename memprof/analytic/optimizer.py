"""An optimizer's step over folded parameters: plays a ``semantics`` program, one layer of a run standing for all.

Agrees with ``semantics.optimizer_program.play``, which defines what a program means, over the unfolded parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from memprof.analytic.stretch import Stretch, Trained
from memprof.analytic.tape import Storage, Tape
from memprof.model.timeline import Component, Phase
from memprof.semantics.optimizer_program import Op, Program, Shape

Held = list[tuple[int, list[Storage]]]  # (stretch index, blocks) in allocation order
_ALONE = -1  # a variable that holds one parameter's block at a time


class OptimizerPlay:
    """One optimizer with its states. ``shards`` maps a trained parameter to the (shape, dtype) that it updates."""

    def __init__(self, tape: Tape, stretches: Sequence[Stretch], shards: dict[int, tuple[Shape, str]]) -> None:
        self.tape = tape
        self.stretches = [s for s in stretches if s.trained]
        self.shards = shards
        self.shared: set[str] = set()

    def play(self, steps: Program, name: str) -> list[int]:
        """Plays a program; returns the segments that it recorded."""
        tape = self.tape
        tape.phase = Phase.OPTIMIZER
        tape.module = ""
        first = tape.num_segments
        variables: dict[str, Held] = {}
        for order, ops in steps:
            if order == "each":
                self._each(ops, variables, name)
            else:
                for dtype in dict.fromkeys(self._of(t)[1] for s in self.stretches for t in s.trained):
                    self._lists(ops, dtype, variables, name)
        for held in list(variables.values()):
            self._release(held, name)
        return list(range(first, tape.num_segments))

    def _of(self, trained: Trained) -> tuple[Shape, str]:
        tensor = trained.tensor
        return self.shards.get(id(tensor)) or (tensor.shape, tensor.dtype)

    def _each(self, ops: tuple[Op, ...], variables: dict[str, Held], name: str) -> None:
        tape = self.tape
        for stretch in self.stretches:
            tape.segment(f"{name} {stretch.name}", stretch.run)
            tape.op(name)
            arriving = {key: _last(held) for key, held in variables.items()}
            for trained in stretch.trained:
                shape, dtype = self._of(trained)
                for op in ops:
                    self._line(op, shape, dtype, variables)
            if stretch.run >= 0:
                for key, block in arriving.items():
                    leaving = _last(variables.get(key, []))
                    if block >= 0 and leaving >= 0:
                        tape.carry(stretch.run, block, leaving, 1)

    def _line(self, op: Op, shape: Shape, dtype: str, variables: dict[str, Held]) -> None:
        verb, block, to = op
        key = block.name
        if verb in ("keep", "bind"):
            num_bytes = block.num_bytes(shape, dtype)
            if block.place != "device" or not num_bytes or key in self.shared:
                return
            if block.shared:
                self.shared.add(key)
            storage = self._alloc(num_bytes, keep=verb == "keep")
            if verb == "bind":
                variables[key] = [(_ALONE, [storage])]
        elif verb == "drop":
            variables.pop(key, None)
        elif key in variables:
            variables[to] = variables.pop(key)

    def _alloc(self, num_bytes: int, keep: bool) -> Storage:
        storage = self.tape.alloc(num_bytes, Component.OPTIMIZER_STATES if keep else Component.TEMPORARIES)
        if keep:
            self.tape.survivors.append(storage)
        return storage

    def _lists(self, ops: tuple[Op, ...], dtype: str, variables: dict[str, Held], name: str) -> None:
        tape = self.tape
        for verb, block, to in ops:
            made: Held = []
            if verb in ("keep", "bind") and block.place == "device":
                for index, stretch in enumerate(self.stretches):
                    shapes = [shape for shape, of in map(self._of, stretch.trained) if of == dtype]
                    sizes = [num_bytes for shape in shapes if (num_bytes := block.num_bytes(shape, dtype))]
                    if not sizes:
                        continue
                    tape.segment(f"{name} {stretch.name}", stretch.run)
                    tape.op(name)
                    made.append((index, [self._alloc(size, keep=verb == "keep") for size in sizes]))
            if verb == "bind" and made:
                self._release(variables.pop(block.name, []), name)
                variables[block.name] = made
            elif verb == "drop":
                self._release(variables.pop(block.name, []), name)
            elif verb == "move" and block.name in variables:
                self._release(variables.pop(to, []), name)
                variables[to] = variables.pop(block.name)

    def _release(self, held: Held, name: str) -> None:
        """Frees a list from its last element to its first."""
        while held:
            index, blocks = held.pop()
            if index == _ALONE:
                self.tape.segment(name)
            else:
                self.tape.segment(f"{name} {self.stretches[index].name}", self.stretches[index].run, -1)
            while blocks:
                blocks.pop()


def _last(held: Held) -> int:
    return held[-1][1][-1].block if held and held[-1][1] else -1

"""The small language in which an optimizer's step is written: what is allocated and freed, in which order.

PyTorch's optimizers are Python, so a temporary lives until its *variable* is assigned again or its function returns;
the old value of a variable is alive while the new one is being computed. Hence four verbs on names rather than plain
alloc and free. A program is a tuple of passes; variables live on across passes and parameters and end with the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Literal, NamedTuple

import msgspec

from memprof.model.dtypes import ITEM_BYTES

Shape = tuple[int, ...]
Place = Literal["device", "host", "managed"]


class Block(msgspec.Struct, frozen=True):
    """A tensor whose size follows from a parameter's shape.

    Attributes:
        name: the variable or the key in the optimizer's state.
        numel: elements for a parameter's shape; 0 where this parameter has no such tensor.
        dtype: None follows the parameter's.
        place: where it lives; only ``device`` is seen by PyTorch's caching allocator.
        shared: one tensor for the whole optimizer, made with the first parameter that needs it.
    """

    name: str
    numel: Callable[[Shape], int] = prod
    dtype: str | None = None
    place: Place = "device"
    shared: bool = False

    def num_bytes(self, shape: Shape, dtype: str) -> int:
        """Bytes for a parameter of this shape and dtype."""
        return self.numel(shape) * ITEM_BYTES[self.dtype or dtype]


Verb = Literal["keep", "bind", "drop", "move"]
Order = Literal["each", "lists"]


class Op(NamedTuple):
    """One line of a step.

    ``keep`` allocates a state; ``bind`` allocates and then frees what the variable held before; ``drop`` frees;
    ``move`` gives the block to the variable ``to`` and frees what that held. An op whose block has 0 elements for a
    parameter (or lives off the device) is skipped for it; a variable that holds nothing drops and moves nothing.
    """

    verb: Verb
    block: Block
    to: str = ""


class Pass(NamedTuple):
    """Lines played over the parameters.

    ``each``: all lines for one parameter, then the next, in ``named_parameters()`` order. ``lists``: parameters are
    grouped by dtype (the dtype that is met last goes first: groups come out of a C++ hash map, which puts new keys in
    front); within a group each line is played for all its parameters before the next line, and a variable holds the
    whole list. A list is freed from its last element to its first.
    """

    order: Order
    ops: tuple[Op, ...]


Program = tuple[Pass, ...]


class Programs(NamedTuple):
    """What an optimizer keeps for each parameter, in creation order, and what it does when."""

    blocks: tuple[Block, ...]
    construction: Program = ()
    first_step: Program = ()
    steady_step: Program = ()


def keeps(*blocks: Block) -> tuple[Op, ...]:
    """Each block allocated as a state, in order."""
    return tuple(Op("keep", block) for block in blocks)


def bind(block: Block) -> Op:
    """The variable is assigned a new tensor."""
    return Op("bind", block)


def drop(block: Block) -> Op:
    """The variable lets go of its tensor."""
    return Op("drop", block)


def move(block: Block, to: Block) -> Op:
    """The variable ``to`` is assigned what ``block`` names."""
    return Op("move", block, to.name)


class Event(NamedTuple):
    """An allocation (``num_bytes`` > 0) or the free of the allocation that has the same ``key``."""

    action: Literal["alloc", "free"]
    key: int
    name: str
    parameter: int
    num_bytes: int
    is_state: bool


class Parameter(NamedTuple):
    """A parameter as an optimizer sees it: only its shape and dtype matter."""

    shape: Shape
    dtype: str


def play(program: Program, parameters: Sequence[Parameter]) -> Iterator[Event]:
    """The flat events of a program over parameters; every temporary is freed by the end.

    This is the definition of what a program means; engines that fold identical layers must agree with it.
    """
    variables: dict[str, list[Event]] = {}
    shared: set[str] = set()
    key = 0
    for ops, indices in _stretches(program, parameters):
        for verb, block, to in ops:
            made: list[Event] = []
            if verb in ("keep", "bind") and block.place == "device":
                for index in indices:
                    num_bytes = block.num_bytes(*parameters[index])
                    if not num_bytes or block.name in shared:
                        continue
                    if block.shared:
                        shared.add(block.name)
                    made.append(Event("alloc", key, block.name, index, num_bytes, verb == "keep"))
                    key += 1
                yield from made
            if verb == "bind" and made:
                yield from _free(variables.pop(block.name, []))
                variables[block.name] = made
            elif verb == "drop":
                yield from _free(variables.pop(block.name, []))
            elif verb == "move" and block.name in variables:
                yield from _free(variables.pop(to, []))
                variables[to] = variables.pop(block.name)
    for held in variables.values():
        yield from _free(held)


def _stretches(program: Program, parameters: Sequence[Parameter]) -> Iterator[tuple[tuple[Op, ...], list[int]]]:
    groups: dict[str, list[int]] = {}
    for index, parameter in enumerate(parameters):
        groups.setdefault(parameter.dtype, []).append(index)
    for order, ops in program:
        for indices in reversed(groups.values()) if order == "lists" else ([i] for i in range(len(parameters))):
            yield ops, indices


def _free(held: list[Event]) -> Iterator[Event]:
    return (event._replace(action="free") for event in reversed(held))

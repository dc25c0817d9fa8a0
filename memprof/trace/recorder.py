"""Records every storage that an op makes: its birth, its resizes, and its death, which is Python's own.

A dispatch mode sees each op that reaches a kernel. Storages that its outputs bring along for the first time are births;
a weak reference to each tells when the last tensor, autograd node or module has let go of it.

Not seen are Python numbers, which the dispatcher hands to modes as numbers. Where one meets a tensor it becomes one of
8 bytes in host memory, for as long as its op runs or the graph of a product keeps it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.model.timeline import Component, Phase
from memprof.trace.attribution import Attribution
from memprof.trace.in_place import InPlace
from memprof.trace.op_names import stands_for

_DEVICE = torch.ops.prim.device.default
_HOST, _EMPTY = -1, -2
"""In the place of a block: a storage of the host's, and one that holds nothing now."""


class Op(NamedTuple):
    """One op: ATen name, the module it works for (real path), phase, and the number of events before it."""

    name: str
    module: str
    phase: Phase
    first_event: int


class Life(NamedTuple):
    """What was recorded of a block when it was born."""

    num_bytes: int
    in_forward: bool
    purpose: Component | None
    stream: int


Kernel = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Iterable[int]]
"""From an op, its arguments and its output to the bytes of each block that its kernel asks for besides."""

OUTPUT_LAST = frozenset({"bitsandbytes::gemm_4bit", "bitsandbytes::int8_mixed_scaled_mm"})
"""Ops that ask for their other blocks before they ask for their output's: a weight dequantized, a product to scale."""


class Recorder(TorchDispatchMode):
    """The log of a run.

    Attributes:
        events: ``block`` where it is born, ``~block`` where it dies.
        ops: in order; those of an op's events are known from ``first_event``.
        lives: of each block.
        died_in_forward: whether a block's death came while a forward (or a recomputation) was running.
        components: blocks whose purpose is known by identity; the first to say so wins.
        stream: tells on which stream what is made now is allocated.
    """

    def __init__(self, attribution: Attribution, kernel: Kernel | None = None, *, host_is_free: bool = False) -> None:
        """``host_is_free``: tensors made without naming a device are the host's and take no device memory."""
        super().__init__()
        self.attribution = attribution
        self.kernel = kernel
        self.host_is_free = host_is_free
        self.phase = Phase.LOAD
        self.events: list[int] = []
        self.ops: list[Op] = []
        self.lives: list[Life] = []
        self.died_in_forward: dict[int, bool] = {}
        self.components: dict[int, Component] = {}
        self.stream: Callable[[], int] = lambda: 0
        self._blocks: dict[int, int] = {}  # storage to block, _HOST or _EMPTY
        self._refs: dict[int, Any] = {}
        self._open = True
        self._paused = False
        self._in_place = InPlace()
        self._purpose: Component | None = None

    # ---- what happens ----

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled while this is on, and telling dynamo so for each op costs time

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(_is_wrapper(kind) for kind in types):
            return NotImplemented  # it is made of plain tensors, whose ops are seen
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        if func is _DEVICE:  # asked of every fake tensor all the time
            return args[0].fake_device
        func = self._in_place.written(func, args) or func
        self.op(func._overloadpacket._qualified_op_name)  # noqa: SLF001
        out = func(*args, **kwargs)
        first = len(self.events)
        host = self.host_is_free and self._is_host(args, kwargs)
        if isinstance(out, torch.Tensor):
            self._see(out, host)
        elif isinstance(out, tuple | list):
            for part in out:
                if isinstance(part, torch.Tensor):
                    self._see(part, host)
        if self.kernel is not None and not host:
            scratch = [self.born(num_bytes) for num_bytes in self.kernel(func, args, kwargs, out)]
            if scratch and func.name() in OUTPUT_LAST:
                self.events[first:] = scratch + self.events[first : -len(scratch)]
            for block in reversed(scratch):
                self.dies(block)
        return out

    def op(self, name: str) -> None:
        """What happens from here on is this op's doing."""
        self.ops.append(Op(stands_for() or name, self.attribution.module(), self.phase, len(self.events)))

    def born(self, num_bytes: int) -> int:
        """A new block."""
        block = len(self.lives)
        self.lives.append(Life(num_bytes, self._in_forward, self._purpose, self.stream()))
        self.events.append(block)
        return block

    def dies(self, block: int) -> None:
        """The end of a block."""
        self.died_in_forward[block] = self._in_forward
        self.events.append(~block)

    def see(self, tensor: Any, component: Component | None = None) -> None:
        """A tensor that may be new; and what it is for."""
        for plain in plain_tensors(tensor):
            self._see(plain, False)
            block = self.block_of(plain)
            if component is not None and block >= 0:
                self.components.setdefault(block, component)

    @contextmanager
    def making(self, purpose: Component) -> Iterator[None]:
        """What is made while this is open is for this purpose, unless its identity says otherwise."""
        before, self._purpose = self._purpose, purpose
        try:
            yield
        finally:
            self._purpose = before

    def on_host(self, make: Callable[[], Any]) -> Any:
        """A tensor that takes no memory of the device, whatever it says of itself."""
        self._paused = True
        try:
            tensor = make()
        finally:
            self._paused = False
        storage = tensor.untyped_storage()
        key = storage._cdata  # noqa: SLF001
        self._blocks[key] = _HOST
        self._refs[key] = weakref.ref(storage, partial(self._storage_died, key))
        return tensor

    def resized(self, storage: Any) -> None:
        """A storage may hold other bytes than it did: the new ones are there before the old ones go."""
        key = storage._cdata  # noqa: SLF001
        block, num_bytes = self._blocks.get(key, _HOST), storage.nbytes()
        if block == _HOST or num_bytes == (self.lives[block].num_bytes if block >= 0 else 0):
            return
        self._blocks[key] = self.born(num_bytes) if num_bytes else _EMPTY
        if block >= 0:
            if block in self.components and num_bytes:
                self.components[self._blocks[key]] = self.components[block]
            self.dies(block)

    def block_of(self, tensor: Any) -> int:
        """The block of a plain tensor's storage; negative if it has none on the device."""
        return self._blocks.get(tensor.untyped_storage()._cdata, _HOST)  # noqa: SLF001

    def close(self) -> None:
        """Later deaths are no events."""
        self._open = False

    # ---- how it is told ----

    @property
    def _in_forward(self) -> bool:
        """A recomputation is a forward too: modules run in it, and none do in the backward itself."""
        return self.phase is Phase.FORWARD or (self.phase is Phase.BACKWARD and self.attribution.inside)

    def _is_host(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the output is a host tensor: all inputs are, or there are none and no device is named."""
        if self.phase is Phase.LOAD:
            return False
        tensors = [part for arg in args for part in (arg if isinstance(arg, tuple | list) else (arg,))]
        blocks = [self.block_of(part) for part in tensors if isinstance(part, torch.Tensor)]
        if not blocks:
            return kwargs.get("device") is None
        return all(block == _HOST for block in blocks) and kwargs.get("device") is None

    def _see(self, tensor: torch.Tensor, host: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata  # noqa: SLF001
        if key in self._blocks:
            self.resized(storage)
            return
        num_bytes = storage.nbytes()
        self._blocks[key] = _HOST if host else self.born(num_bytes) if num_bytes else _EMPTY
        self._refs[key] = weakref.ref(storage, partial(self._storage_died, key))

    def _storage_died(self, key: int, _: object) -> None:
        del self._refs[key]
        block = self._blocks.pop(key)
        if block >= 0 and self._open:
            self.dies(block)


def plain_tensors(tensor: Any) -> list[Any]:
    """The plain tensors that a tensor is made of: itself, or a wrapper's parts."""
    if not _is_wrapper(type(tensor)):
        return [tensor]
    parts = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]  # a DTensor's mesh is one
    return [plain for part in parts if isinstance(part, torch.Tensor) for plain in plain_tensors(part)]


def _is_wrapper(kind: type) -> bool:
    return kind.__name__ in ("DTensor", "AsyncCollectiveTensor", "OptimState8bit", "OptimState4bit")

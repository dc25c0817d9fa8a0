"""DistributedDataParallel around a program: its buckets, see ``semantics.ddp``."""

from __future__ import annotations

from itertools import groupby

from memprof.analytic.autograd import Leaf
from memprof.analytic.strategies.base import Strategy
from memprof.analytic.stretch import Stretch
from memprof.analytic.tape import Storage
from memprof.semantics.ddp import Gradient, broadcast_buffers, first_buckets, rebuilt_buckets
from memprof.semantics.sharding import Buffer


class DistributedDataParallel(Strategy):
    """Buckets from construction on; after the first backward they are rebuilt, once, when the next forward begins."""

    buckets: list[Storage]
    stretches: list[Stretch]
    ready: list[Gradient]

    def loaded(self, stretches: list[Stretch]) -> None:
        self.stretches = stretches
        self.ready = []
        gradients = [
            (trained.tensor.shape, trained.tensor.dtype)
            for stretch in stretches
            for _ in range(stretch.count)
            for trained in stretch.trained
        ]
        tape = self.graph.tape
        tape.segment("ddp")
        tape.op("DistributedDataParallel")
        before: Storage | None = None
        for size in broadcast_buffers(gradients):
            copy = tape.alloc(size)
            before = copy
            del copy
        del before
        self.buckets = self._make(first_buckets(gradients))

    def backward_end(self) -> None:
        """Notes the order in which the first backward made gradients ready; a module's bias comes before its weight."""
        if self.ready:
            return
        made = []
        for stretch in self.stretches:
            place: dict[str, int] = {}
            for name, tensor in reversed(stretch.trained):
                assert isinstance(tensor.node, Leaf)
                assert tensor.node.accumulated is not None
                block = place.setdefault(name.rpartition(".")[0], tensor.node.accumulated.storage.block)
                made.append((block, stretch.run, stretch.count, (tensor.shape, tensor.dtype)))
        made.sort(key=lambda gradient: gradient[0])
        for (_, count), layer in groupby(made, key=lambda gradient: gradient[1:3]):
            self.ready += [gradient for *_, gradient in layer] * count

    def second_step(self) -> None:
        self.graph.tape.op("rebuild_buckets")
        self.buckets.clear()
        self.buckets = self._make(rebuilt_buckets(self.ready))

    def _make(self, buffer: Buffer) -> list[Storage]:
        return [self.graph.tape.alloc(size, buffer.component) for size in buffer.num_bytes]

"""DistributedDataParallel around a program: its buckets, see ``semantics.ddp``."""

from __future__ import annotations

from memprof.analytic.strategies.base import Strategy
from memprof.analytic.stretch import Stretch
from memprof.analytic.tape import Storage
from memprof.semantics.ddp import Gradient, broadcast_buffers, first_buckets, rebuilt_buckets
from memprof.semantics.sharding import Buffer


class DistributedDataParallel(Strategy):
    """Buckets from construction on; after the first backward they are rebuilt, once, when the next forward begins."""

    buckets: list[Storage]
    gradients: list[Gradient]

    def loaded(self, stretches: list[Stretch]) -> None:
        self.gradients = [
            (trained.tensor.shape, trained.tensor.dtype)
            for stretch in stretches
            for _ in range(stretch.count)
            for trained in stretch.trained
        ]
        tape = self.graph.tape
        tape.segment("ddp")
        tape.op("DistributedDataParallel")
        before: Storage | None = None
        for size in broadcast_buffers(self.gradients):
            copy = tape.alloc(size)
            before = copy
            del copy
        del before
        self.buckets = self._make(first_buckets(self.gradients))

    def second_step(self) -> None:
        self.graph.tape.op("rebuild_buckets")
        self.buckets.clear()
        self.buckets = self._make(rebuilt_buckets(self.gradients[::-1]))

    def _make(self, buffer: Buffer) -> list[Storage]:
        return [self.graph.tape.alloc(size, buffer.component) for size in buffer.num_bytes]

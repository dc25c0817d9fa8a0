"""Parameters grouped as they are played: the words that loading, strategies and optimizers share."""

from __future__ import annotations

from typing import NamedTuple

from memprof.analytic.autograd import Tensor


class Trained(NamedTuple):
    """A trainable parameter: its tensor carries the leaf that takes its gradient."""

    name: str
    tensor: Tensor


class Stretch:
    """Parameters that share a segment: those of the root, of the first layer, or of a run of ``count`` layers."""

    __slots__ = ("name", "run", "count", "trained")

    def __init__(self, name: str, run: int, count: int, trained: list[Trained]) -> None:
        self.name = name
        self.run = run
        self.count = count
        self.trained = trained

"""Parameters grouped as they are played: the words that loading, strategies and optimizers share."""

from __future__ import annotations

from typing import NamedTuple

from memprof.analytic.autograd import Tensor


class Trained(NamedTuple):
    """A trainable parameter: its tensor carries the leaf that takes its gradient."""

    name: str
    tensor: Tensor


class Stretch(NamedTuple):
    """Parameters that share a segment: those of the root, of the first layer, or of a run of layers."""

    name: str
    run: int
    count: int
    trained: list[Trained]

"""How much of a model ZeRO 3 has gathered at a time: DeepSpeed's coordinator, played over the trace of one step.

Each parameter counts as a module of its own, used once in the forward and, in reverse order, once in the backward; one
that is used again by another module is not known here. The trace is known from the second step on: before, nothing is
gathered ahead and nothing kept.

Source: DeepSpeed 0.19.8: deepspeed/runtime/zero/partitioned_param_coordinator.py (_fetch_sub_module_impl,
release_sub_module, __params_to_release), partition_parameters.py (AllGatherCoalescedHandle).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from memprof.model.scenario import Zero
from memprof.semantics.sharding import align


def number(size: int | Literal["auto"]) -> int:
    """A size that ``semantics.zero.resolved`` has made a number."""
    assert size != "auto"
    return size


def gathered_at_turn(numels: Sequence[int], world: int, settings: Zero) -> int:
    """Elements that are there as the forward ends and the backward begins.

    Args:
        numels: elements of each parameter in the order of the forward, those left out that are kept whole.
        world: ranks.
        settings: what is fetched ahead and kept.
    """
    coordinator = _Coordinator(numels, world, settings)
    turn = len(numels)
    live = [coordinator.step(number) for number in range(min(turn + 1, 2 * turn))]
    return max(live[-2:], default=0)


class _Coordinator:
    """What is there as one parameter after the other is used.

    ``live`` is elements in memory: what was gathered together lies in one buffer until its last parameter is used and,
    from the use of its first one on, in a copy of each parameter too.
    """

    def __init__(self, numels: Sequence[int], world: int, settings: Zero) -> None:
        self.numels, self.world, self.settings = numels, world, settings
        self.trace = [*range(len(numels)), *reversed(range(len(numels)))]
        self.passed = [0, *accumulate(numels[index] for index in self.trace)]
        self.queued = 0  # the place in the trace up to which parameters were fetched, or skipped as they were there
        self.fetched_for = [-1] * len(numels)
        self.held: dict[int, int] = {}  # each parameter that is gathered, and the elements that end with it
        self.unused: dict[int, list[int]] = {}  # each that was gathered ahead, and those that share its buffer
        self.available = self.live = 0

    def step(self, number: int) -> int:
        """A parameter is used; gives the elements in memory meanwhile."""
        index = self.trace[number]
        if index not in self.held:
            self._gather([index])
        self._take(index)
        if self.fetched_for[index] < number:
            self.fetched_for[index] = number
            self.queued += 1
        self._gather_ahead()
        live = self.live
        if not self._is_kept(index, number + 1):
            self.live -= self.held.pop(index)
            self.available -= self.numels[index]
        return live

    def _gather(self, group: list[int]) -> None:
        for index in group:
            self.unused[index] = group
            self.held[index] = align(self.numels[index], self.world)
            self.available += self.numels[index]
            self.live += self.held[index]

    def _take(self, index: int) -> None:
        """The first of a group has all of them copied; with the last, the buffer goes."""
        group = self.unused.pop(index, [index])
        if len(group) == 1:
            return
        waiting = [other for other in group if self.unused.get(other) is group]
        if len(waiting) == len(group) - 1:
            for other in group:
                self.held[other] = self.numels[other]
                self.live += self.numels[other]
        if not waiting:
            self.live -= sum(align(self.numels[other], self.world) for other in group)

    def _gather_ahead(self) -> None:
        room = min(self.settings.max_live_parameters - self.available, number(self.settings.prefetch_bucket_size))
        group: list[int] = []
        num_elements = 0
        while self.queued < len(self.trace) and num_elements < room:
            index = self.trace[self.queued]
            self.fetched_for[index] = max(self.fetched_for[index], self.queued)
            self.queued += 1
            if index not in self.held and index not in group:
                group.append(index)
                num_elements += self.numels[index]
        self._gather(group)

    def _is_kept(self, index: int, number: int) -> bool:
        """Its next use was skipped when that was queued, or is near."""
        again = 2 * len(self.numels) - 1 - index
        if self.fetched_for[index] > number:
            return True
        return again >= number and self.passed[again] - self.passed[number] < self.settings.max_reuse_distance

"""The life of every block of a Recording, and what it was for once its whole life is known."""

from __future__ import annotations

from dataclasses import dataclass

from memprof.measure.recording import Recording, Site
from memprof.model.timeline import Component

# cuBLAS' workspace on sm_90 and elsewhere, bytes; it is taken by a thread's first matrix product and kept.
# The sizes are from getChosenWorkspaceSize in aten/src/ATen/cuda/CublasHandlePool.cpp
_WORKSPACE_BYTES = frozenset({4096 * 8 * 1024, 8_519_680})
_MATRIX_PRODUCT = ("mm", "matmul", "linear", "einsum", "conv")
# Ops that only create or copy: a block of theirs that is there before the first backward and stays is the model's own.
_CREATE = ("_to_copy", "to", "empty", "zeros", "ones", "rand", "normal", "uniform", "clone", "copy", "full", "arange")


@dataclass(slots=True)
class Life:
    """One block: bytes asked for, its site, and the events (indices) at which it was asked for and given back.

    ``start`` is -1 for a block that was there before the recording; ``end`` is None while nobody has given it back.
    """

    requested: int
    site: Site
    start: int = -1
    end: int | None = None
    use: Component | None = None


def lives_of(recording: Recording) -> dict[int, Life]:
    """Each block's Life by block id, its use settled."""
    sites, events = recording.sites(), recording.tape.events
    actions = recording.tape.column("action")
    lives = {block: Life(held.requested, held.site) for block, held in recording.held.items()}
    for index, (action, block) in enumerate(zip(actions, events.block, strict=True)):
        if block is None:
            continue
        if action == "alloc":
            lives[block] = Life(events.size[index], sites[index], index)
        elif block in lives and lives[block].end is None:
            lives[block].end = index
    phases = _Phases(actions, sites)
    for life in lives.values():
        life.use = _use(life, phases)
    return lives


class _Phases:
    """Which phase each event belongs to: that of the latest allocation, in stretches of one phase."""

    def __init__(self, actions: list[str], sites: list[Site]) -> None:
        self.stretch: list[int] = []
        self.phase: list[str] = []  # of each stretch
        for action, site in zip(actions, sites, strict=True):
            phase = site.phase or "forward"  # a loss, say: computed outside any module
            if action == "alloc" and (not self.phase or phase != self.phase[-1]):
                self.phase.append(phase)
            self.stretch.append(max(len(self.phase) - 1, 0))
        self.first_oom = actions.index("oom") if "oom" in actions else len(actions)
        self.first_backward = self._first("backward")

    def _first(self, phase: str) -> int:
        """Index of the first event of a phase; one past the last where there is none."""
        if phase not in self.phase:
            return len(self.stretch)
        return self.stretch.index(self.phase.index(phase))

    def outlives_steps(self, life: Life) -> bool:
        """Whether a block was there before the first backward and stays, or is replaced by an optimizer's step."""
        if life.start >= self.first_backward or "optimizer" not in self.phase:
            return False
        return life.end is None or self.phase[self.stretch[life.end]] == "optimizer"

    def within_one(self, life: Life) -> bool:
        """Whether a block came and went in one stretch; what a failed request made the program drop did not go."""
        if life.end is None or life.start < 0 or life.start < self.first_oom < life.end:
            return False
        return self.stretch[life.start] == self.stretch[life.end]


def _use(life: Life, phases: _Phases) -> Component | None:
    """What a block was for, or None where neither its stack nor its life tells.

    A block that comes and goes within one forward, backward or optimizer step is a temporary. One that outlives it is
    a gradient (made in backward), an optimizer state (made in a step), or an activation (made in forward).
    """
    site = life.site
    if site.component:
        return Component(site.component)
    if life.end is None and life.requested in _WORKSPACE_BYTES and any(op in site.op for op in _MATRIX_PRODUCT):
        return Component.WORKSPACE
    if life.start < 0 and not site.phase:
        return None
    if site.phase == "optimizer":
        return Component.TEMPORARIES if phases.within_one(life) else Component.OPTIMIZER_STATES
    if site.phase == "backward":
        if site.module:
            return Component.ACTIVATIONS  # recomputed from a checkpoint
        return Component.TEMPORARIES if phases.within_one(life) else Component.GRADIENTS
    if phases.within_one(life):
        return Component.TEMPORARIES
    if phases.outlives_steps(life) and site.op.startswith(_CREATE):
        return Component.WEIGHTS
    return Component.ACTIVATIONS

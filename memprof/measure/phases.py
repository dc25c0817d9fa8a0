"""Phases of a real loop as ranges of PyTorch's profiler."""

from __future__ import annotations

from contextlib import ExitStack

from memprof.model.timeline import Phase


class PhaseRanges(ExitStack):
    """Follows a loop: what runs until the next phase lies in a range of this phase's name."""

    def phase(self, phase: Phase) -> None:
        """Ends the phase before and begins this one."""
        from torch.profiler import record_function

        self.close()
        self.enter_context(record_function(phase.value))

"""A Recording: a Tape of what one device's allocator did, with what only a snapshot adds to it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from memprof.model.tape import Tape


class Site(NamedTuple):
    """Where an allocation came from; an empty text is what the recording does not tell.

    Attributes:
        op: ATen operator, or the innermost function where no operator was recorded.
        module: the innermost ``nn.Module`` whose forward was running.
        source: ``file.py:12 function`` of the innermost line outside PyTorch itself.
        phase: ``load``, ``forward``, ``backward`` or ``optimizer``.
        component: what the stack alone settles about the block's use.
    """

    op: str = ""
    module: str = ""
    source: str = ""
    phase: str = ""
    component: str = ""


UNKNOWN = Site()
BACKWARD = Site(phase="backward")
"""An allocation without a stack in a recording that has stacks: backward's own thread on CUDA has no Python frames."""


class Held(NamedTuple):
    """A block that was there before the first event: bytes asked for, and by whom."""

    requested: int
    site: Site


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """One device's recording.

    Attributes:
        held: of each block in the tape's initial segments.
        segment_addresses: of the initial segments, and ``addresses`` of the events (for an ``oom`` the device's free
            bytes); both empty where none were recorded.
        has_device_free: whether the address of an ``oom`` is what the device had left.
        warnings: what the recording lacks, and what that makes uncertain.
    """

    tape: Tape
    held: dict[int, Held]
    segment_addresses: list[int] = []
    addresses: list[int] = []
    has_device_free: bool = False
    warnings: list[str] = []

    def sites(self) -> list[Site]:
        """The site of each event."""
        columns = (self.tape.column(name) for name in ("op", "module", "site", "phase", "component"))
        known: dict[tuple[str, ...], Site] = {}
        return [known.setdefault(row, Site(*row)) for row in zip(*columns, strict=True)]


def from_tape(tape: Tape) -> Recording:
    """A tape read from a file; of blocks that were there before it, only the size is known.

    Raises:
        ValueError: its events do not fit together.
    """
    tape = tape.with_unique_blocks()
    blocks = (block for segment in tape.initial_segments for block in segment.blocks)
    return Recording(tape=tape, held={block: Held(size, UNKNOWN) for size, block in blocks if block is not None})

"""What playing a Timeline through the allocator comes to."""

from __future__ import annotations

import msgspec

from memprof.allocator.oom import OutOfMemoryError


class PlayResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the simulator saw over all that was played; bytes.

    Attributes:
        num_steps: how often the last stage was played.
        is_steady: the last step ended as it began, so that every later one is the same.
        oom: the request that failed, at which playing stopped; None where all were served.
    """

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    peak_requested_bytes: int
    end_allocated_bytes: int
    end_reserved_bytes: int
    num_alloc_retries: int
    num_steps: int
    is_steady: bool
    oom: OutOfMemoryError | None

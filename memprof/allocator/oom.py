"""A request that could not be served, and why."""

from __future__ import annotations


class OutOfMemoryError(Exception):
    """What the simulated program would see as ``torch.OutOfMemoryError``; all figures at that moment, in bytes.

    Attributes:
        requested_bytes: the request that failed; ``block_bytes`` as rounded, ``segment_bytes`` as asked of the device.
        device_free_bytes: what the device, or the process's share of it, still had.
        largest_free_bytes: the largest cached block of the request's stream and pool.
    """

    def __init__(
        self,
        *,
        requested_bytes: int,
        block_bytes: int,
        segment_bytes: int,
        stream: int,
        allocated_bytes: int,
        reserved_bytes: int,
        device_free_bytes: int,
        largest_free_bytes: int,
    ) -> None:
        super().__init__(f"out of memory: tried to allocate {requested_bytes} bytes")
        self.requested_bytes = requested_bytes
        self.block_bytes = block_bytes
        self.segment_bytes = segment_bytes
        self.stream = stream
        self.allocated_bytes = allocated_bytes
        self.reserved_bytes = reserved_bytes
        self.device_free_bytes = device_free_bytes
        self.largest_free_bytes = largest_free_bytes

    @property
    def reason(self) -> str:
        """``fragmentation`` where cached and free bytes together would have held the block, else ``capacity``."""
        unused = self.reserved_bytes - self.allocated_bytes + self.device_free_bytes
        return "fragmentation" if unused >= self.block_bytes else "capacity"

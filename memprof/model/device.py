"""A Device: what a card (or the CPU) has, each figure with its source."""

from __future__ import annotations

from typing import Literal

import msgspec


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One accelerator, or the CPU.

    Attributes:
        name: lower-case with its memory: ``h100-80gb``.
        title: as its maker writes it.
        kind: whose kernels run on it.
        architecture: ``sm_90``, ``gfx942``, or ``cpu``.
        total_bytes: what ``cudaMemGetInfo`` reports as total, in bytes; None for the CPU.
        nominal: True where ``total_bytes`` is the data sheet's figure and not one that a device reported.
        total_source: log or issue that shows ``total_bytes``.
        memory_bandwidth_bytes_per_s: peak of the data sheet.
        num_multiprocessors: streaming multiprocessors; None stands for the usual card of the architecture.
        peak_flops: dense peak FLOP/s by dtype (``float32``, ``tf32``, ``bfloat16``, ``float16``, ``float8``).
        source: the data sheet.
        checked: ISO date on which the figures were read.
    """

    name: str
    title: str
    kind: Literal["cuda", "rocm", "cpu"]
    architecture: str
    total_bytes: int | None
    nominal: bool = False
    total_source: str = ""
    memory_bandwidth_bytes_per_s: int | None = None
    num_multiprocessors: int | None = None
    peak_flops: dict[str, float] = {}
    source: str = ""
    checked: str = ""
    aliases: tuple[str, ...] = ()

"""What bitsandbytes' optimizers keep; their CUDA kernels work in place and allocate nothing.

States of 32 bits are float32 whatever the weights are. With 8 bits a parameter of 4096 elements or more has one byte
per element and moment, and a float32 maximum per block of 256; the code tables are shared by all parameters. A paged
state of 100,000 elements or more is CUDA managed memory, which PyTorch's allocator does not see. The step counter is
a Python int. On the CPU the update is plain PyTorch; its float32 copies of one parameter at a time are left out.

Source: bitsandbytes 0.50.2 wheel: optim/optimizer.py (``init_state``, ``get_state_buffer``, ``update_step``),
optim/adamw.py, optim/lion.py (``min_8bit_size`` 4096), backends/cuda/ops.py.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from memprof.semantics.optimizer_program import Block, Op, Pass, Program, Shape

MIN_8BIT_NUMEL = 4096
MIN_PAGED_NUMEL = 100_000
BLOCK_NUMEL = 256
CODE_ENTRIES = 256


class Kind(NamedTuple):
    """One of bitsandbytes' optimizers: its moments, and how they are kept."""

    moments: tuple[str, ...]
    eight_bit: bool
    paged: bool


def programs(kind: Kind, device_kind: str) -> tuple[tuple[Block, ...], Program, Program, Program]:
    """States in creation order, and the programs of construction, first step and later steps."""
    blocks = (
        _eight_bit(kind, device_kind != "cpu")
        if kind.eight_bit
        else tuple(Block(m, dtype="float32") for m in kind.moments)
    )
    return blocks, (), (Pass("each", tuple(Op("keep", block) for block in blocks)),), ()


def _eight_bit(kind: Kind, managed: bool) -> tuple[Block, ...]:
    """Paging falls back to plain memory on the CPU."""
    tables = tuple(Block(f"qmap{i}", _code_entries, "float32", shared=True) for i, _ in enumerate(kind.moments, 1))
    small = tuple(Block(moment, _below_8bit, "float32") for moment in kind.moments)
    if kind.paged and managed:
        large = tuple(Block(moment, _unpaged, "uint8") for moment in kind.moments)
        large += tuple(Block(moment, _paged, "uint8", place="managed") for moment in kind.moments)
    else:
        large = tuple(Block(moment, _quantized, "uint8") for moment in kind.moments)
    maxima = tuple(Block(f"absmax{i}", _blocks, "float32") for i, _ in enumerate(kind.moments, 1))
    return tables + small + large + maxima


def _below_8bit(shape: Shape) -> int:
    numel = prod(shape)
    return numel if numel < MIN_8BIT_NUMEL else 0


def _quantized(shape: Shape) -> int:
    numel = prod(shape)
    return numel if numel >= MIN_8BIT_NUMEL else 0


def _unpaged(shape: Shape) -> int:
    numel = _quantized(shape)
    return numel if numel < MIN_PAGED_NUMEL else 0


def _paged(shape: Shape) -> int:
    numel = prod(shape)
    return numel if numel >= MIN_PAGED_NUMEL else 0


def _blocks(shape: Shape) -> int:
    return -(-_quantized(shape) // BLOCK_NUMEL)


def _code_entries(shape: Shape) -> int:
    return CODE_ENTRIES if _quantized(shape) else 0

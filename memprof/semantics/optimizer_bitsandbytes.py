"""What bitsandbytes' optimizers keep; their CUDA kernels work in place and allocate nothing.

States of 32 bits are float32 whatever the weights are. With 8 bits a parameter of 4096 elements or more has one byte
per element and moment, and a float32 maximum per block of 256; the code tables are shared by all parameters. A paged
moment of 100,000 elements or more, of 32 bits or 8, is CUDA managed memory, which PyTorch's allocator does not see. The
step counter is a Python int. On the CPU the update is plain PyTorch: ``optimizer_bitsandbytes_cpu``.

Source: bitsandbytes 0.50.2 wheel: optim/optimizer.py (``init_state``, ``get_state_buffer``, ``update_step``),
optim/adamw.py, optim/lion.py (``min_8bit_size`` 4096), backends/cuda/ops.py.
"""

from __future__ import annotations

from math import prod

import msgspec

from memprof.semantics import optimizer_bitsandbytes_cpu as on_cpu
from memprof.semantics.optimizer_bitsandbytes_cpu import Numel
from memprof.semantics.optimizer_program import Block, Op, Pass, Programs, Shape, keeps

MIN_8BIT_NUMEL = 4096
MIN_PAGED_NUMEL = 100_000
BLOCK_NUMEL = 256
CODE_ENTRIES = 256


class Kind(msgspec.Struct, frozen=True):
    """One of bitsandbytes' optimizers: its moments, and how they are kept."""

    moments: tuple[str, ...]
    eight_bit: bool
    paged: bool


def programs(kind: Kind, device_kind: str) -> Programs:
    """States in creation order; all are made in the first step, a parameter's just before its update."""
    paged = kind.paged and device_kind != "cpu"  # there bitsandbytes keeps plain memory, and says so
    blocks = tuple(
        _eight_bit(kind.moments, paged) if kind.eight_bit else _moments(kind.moments, prod, "float32", paged)
    )
    update = _update_on_cpu(kind) if device_kind == "cpu" else ()
    return Programs(blocks, first_step=(Pass("each", (*keeps(*blocks), *update)),), steady_step=(Pass("each", update),))


def _update_on_cpu(kind: Kind) -> tuple[Op, ...]:
    count = len(kind.moments)
    if not kind.eight_bit:
        return on_cpu.full(count, prod)
    return (*on_cpu.eight_bit(count, _quantized, _num_blocks), *on_cpu.full(count, _below_8bit))


def _eight_bit(moments: tuple[str, ...], paged: bool) -> list[Block]:
    blocks = [Block(f"qmap{i}", _code_entries, "float32", shared=True) for i, _ in enumerate(moments, 1)]
    blocks += [Block(moment, _below_8bit, "float32") for moment in moments]
    blocks += _moments(moments, _quantized, "uint8", paged)
    blocks += [Block(f"absmax{i}", _num_blocks, "float32") for i, _ in enumerate(moments, 1)]
    return blocks


def _moments(moments: tuple[str, ...], numel: Numel, dtype: str, paged: bool) -> list[Block]:
    """On the device; where they are paged, the large ones are in managed memory."""
    if not paged:
        return [Block(moment, numel, dtype) for moment in moments]
    small = [Block(moment, _small(numel), dtype) for moment in moments]
    return small + [Block(moment, _large(numel), dtype, place="managed") for moment in moments]


def _small(numel: Numel) -> Numel:
    return lambda shape: count if (count := numel(shape)) < MIN_PAGED_NUMEL else 0


def _large(numel: Numel) -> Numel:
    return lambda shape: count if (count := numel(shape)) >= MIN_PAGED_NUMEL else 0


def _below_8bit(shape: Shape) -> int:
    numel = prod(shape)
    return numel if numel < MIN_8BIT_NUMEL else 0


def _quantized(shape: Shape) -> int:
    numel = prod(shape)
    return numel if numel >= MIN_8BIT_NUMEL else 0


def _num_blocks(shape: Shape) -> int:
    return -(-_quantized(shape) // BLOCK_NUMEL)


def _code_entries(shape: Shape) -> int:
    return CODE_ENTRIES if _quantized(shape) else 0

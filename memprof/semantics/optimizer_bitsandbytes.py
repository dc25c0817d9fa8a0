"""What bitsandbytes' optimizers keep; their CUDA kernels work in place and allocate nothing.

States of 32 bits are float32 whatever the weights are. With 8 bits a parameter of 4096 elements or more has one byte
per element and moment, and a float32 maximum per block of 256; the code tables are shared by all parameters. A paged
state of 100,000 elements or more is CUDA managed memory, which PyTorch's allocator does not see. The step counter is
a Python int. On the CPU the update is plain PyTorch: ``optimizer_bitsandbytes_cpu``.

Source: bitsandbytes 0.50.2 wheel: optim/optimizer.py (``init_state``, ``get_state_buffer``, ``update_step``),
optim/adamw.py, optim/lion.py (``min_8bit_size`` 4096), backends/cuda/ops.py.
"""

from __future__ import annotations

from math import prod

import msgspec

from memprof.semantics import optimizer_bitsandbytes_cpu as on_cpu
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
    if kind.eight_bit:
        blocks = _eight_bit(kind.moments, kind.paged and device_kind != "cpu")
    else:
        blocks = tuple(Block(moment, dtype="float32") for moment in kind.moments)
    update = _update_on_cpu(kind) if device_kind == "cpu" else ()
    return Programs(blocks, first_step=(Pass("each", (*keeps(*blocks), *update)),), steady_step=(Pass("each", update),))


def _update_on_cpu(kind: Kind) -> tuple[Op, ...]:
    count = len(kind.moments)
    if not kind.eight_bit:
        return on_cpu.full(count, prod)
    return (*on_cpu.eight_bit(count, _quantized, _num_blocks), *on_cpu.full(count, _below_8bit))


def _eight_bit(moments: tuple[str, ...], paged: bool) -> tuple[Block, ...]:
    """Paging falls back to plain memory on the CPU."""
    blocks = [Block(f"qmap{i}", _code_entries, "float32", shared=True) for i, _ in enumerate(moments, 1)]
    blocks += [Block(moment, _below_8bit, "float32") for moment in moments]
    blocks += [Block(moment, _unpaged if paged else _quantized, "uint8") for moment in moments]
    if paged:
        blocks += [Block(moment, _paged, "uint8", place="managed") for moment in moments]
    blocks += [Block(f"absmax{i}", _num_blocks, "float32") for i, _ in enumerate(moments, 1)]
    return tuple(blocks)


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


def _num_blocks(shape: Shape) -> int:
    return -(-_quantized(shape) // BLOCK_NUMEL)


def _code_entries(shape: Shape) -> int:
    return CODE_ENTRIES if _quantized(shape) else 0

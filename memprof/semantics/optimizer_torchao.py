"""What torchao's AdamW of 8 and 4 bits keeps, and what its update allocates.

A parameter whose elements are 4096 or more and fill blocks of 256 keeps for each moment its codes, a float32 maximum
for each block, and a code table of its own; any other keeps moments of its own dtype. Blocks are 256 as Transformers
asks for them (torchao alone has 128 for 4 bits). The step counter, and the learning rate (4 bytes, left out), are
tensors of the host.

The update of a parameter is one function that ``torch.compile`` compiles. Moments that are not quantized are updated in
place. For the others its kernels hand on, for each moment: block maxima, the moment over them in float32, and for 4
bits the codes in int64 before two share a byte. On the CPU, where 4-bit codes are unpacked by an op of ATen before, a
real step shows it. For a GPU it is read from the code that Inductor of torch 2.13 writes for an H100; kernels that it
splits differently for small parameters change no peak.

Source: torchao 0.18 wheel: optim/adam.py (``_new_buffer``, ``single_param_adam``), optim/subclass_8bit.py,
optim/subclass_4bit.py (``zeros``); transformers 5.23 wheel: trainer_optimizer.py (``_get_torchao_optimizer``).
"""

from __future__ import annotations

from math import prod
from typing import Literal

from memprof.semantics.optimizer_program import Block, Op, Pass, Programs, Shape, bind, drop, keeps

Bits = Literal[8, 4]

MIN_QUANTIZED_NUMEL = 4096
BLOCK_NUMEL = 256
_MOMENTS = ("exp_avg", "exp_avg_sq")


def programs(bits: Bits, device_kind: str) -> Programs:
    """States in creation order; all are made in the first step, a parameter's just before its update."""
    blocks = (Block("step", _scalar, "float32", "device" if device_kind == "cpu" else "host"), *_moments(bits))
    update = update_of(bits, device_kind)
    return Programs(blocks, first_step=(Pass("each", (*keeps(*blocks), *update)),), steady_step=(Pass("each", update),))


def update_of(bits: Bits, device_kind: str) -> tuple[Op, ...]:
    """What the compiled update of a parameter allocates, and frees at its end."""
    buffers = [Block(f"{moment} maxima", _num_blocks, "float32") for moment in _MOMENTS]
    buffers += [Block(f"{moment} scaled", _quantized, "float32") for moment in _MOMENTS]
    if bits == 8:
        return (*map(bind, buffers), *map(drop, buffers))
    buffers += [Block(f"{moment} codes", _quantized, "int64") for moment in _MOMENTS]
    if device_kind != "cpu":
        return (*map(bind, buffers), *map(drop, buffers))
    halves = [Block(half, _halves, "uint8") for half in ("high", "low")]
    unpacked = [Block(f"{moment} unpacked", _quantized, "uint8") for moment in _MOMENTS]
    unpacking = (*map(bind, (*halves, *unpacked)), *map(drop, halves))
    return (*unpacking, *map(bind, buffers), *map(drop, (*unpacked, *buffers)))


def warnings(device_kind: str) -> list[str]:
    """What an estimate with these optimizers does not know."""
    compiling = "left out of this estimate: what compiling torchao's update takes in the first step"
    if device_kind == "cpu":
        return [compiling]
    written = "what torchao's update allocates on a GPU is read from the code that torch.compile writes for it"
    return [f"{written}; no run has shown it", compiling]


def _moments(bits: Bits) -> tuple[Block, ...]:
    codes, entries = (_quantized, _entries_8bit) if bits == 8 else (_halves, _entries_4bit)
    return tuple(
        block
        for moment in _MOMENTS
        for block in (
            Block(moment, _unquantized),
            Block(f"{moment}.codes", codes, "uint8"),
            Block(f"{moment}.scale", _num_blocks, "float32"),
            Block(f"{moment}.qmap", entries, "float32"),
        )
    )


def _scalar(_: Shape) -> int:
    return 1


def _quantized(shape: Shape) -> int:
    numel = prod(shape)
    return numel if numel >= MIN_QUANTIZED_NUMEL and numel % BLOCK_NUMEL == 0 else 0


def _unquantized(shape: Shape) -> int:
    return prod(shape) - _quantized(shape)


def _halves(shape: Shape) -> int:
    return _quantized(shape) // 2


def _num_blocks(shape: Shape) -> int:
    return _quantized(shape) // BLOCK_NUMEL


def _entries_8bit(shape: Shape) -> int:
    return 256 if _quantized(shape) else 0


def _entries_4bit(shape: Shape) -> int:
    return 16 if _quantized(shape) else 0

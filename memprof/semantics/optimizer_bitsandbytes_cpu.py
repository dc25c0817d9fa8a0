"""What bitsandbytes' updates allocate on the CPU, where they are functions of PyTorch's ops, one parameter at a time.

Source: bitsandbytes 0.50.2 wheel: backends/cpu/ops.py (``_optimizer_update_8bit_blockwise_cpu``,
``_optimizer_update_32bit_cpu``, ``quantize_blockwise``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from memprof.semantics.optimizer_program import Block, Op, Shape, bind, drop

Numel = Callable[[Shape], int]


class _Copy(Block, frozen=True):
    """``tensor.float()``, which is the tensor itself where that is float32."""

    def num_bytes(self, shape: Shape, dtype: str) -> int:
        return 0 if dtype == "float32" else super().num_bytes(shape, dtype)


def eight_bit(num_moments: int, numel: Numel, num_blocks: Numel) -> tuple[Op, ...]:
    """The update of a parameter whose moments are quantized; the functions give 0 for others."""
    moments = [Block(f"moment{i}", numel, "float32") for i in range(num_moments)]
    scales, codes = Block("scales", num_blocks, "float32"), Block("codes", numel, "uint8")
    quantized = (bind(scales), bind(codes), drop(scales), drop(codes))
    return (
        *map(bind, moments),
        *_update(numel, _adam_8bit(numel) if num_moments == 2 else _lion_8bit(numel)),
        *quantized * num_moments,
        *map(drop, moments),
    )


def full(num_moments: int, numel: Numel) -> tuple[Op, ...]:
    """The update of a parameter whose moments are float32."""
    return tuple(_update(numel, _adam(numel) if num_moments == 2 else _lion(numel)))


def _update(numel: Numel, inner: tuple[Op, ...]) -> Iterator[Op]:
    """The gradient scaled, and a float32 copy of the parameter, around what the kind of optimizer does."""
    cast, gradient = _Copy("cast", numel, "float32"), Block("gradient", numel, "float32")
    parameter = _Copy("parameter", numel, "float32")
    yield from (bind(cast), bind(gradient), drop(cast), bind(parameter), *inner, drop(parameter), drop(gradient))


def _adam_8bit(numel: Numel) -> tuple[Op, ...]:
    root, quotient = Block("root", numel, "float32"), Block("quotient", numel, "float32")
    return bind(root), bind(quotient), drop(root), drop(quotient)


def _adam(numel: Numel) -> tuple[Op, ...]:
    root, total, update = (Block(name, numel, "float32") for name in ("root", "total", "update"))
    return bind(root), bind(total), drop(root), bind(update), drop(total), drop(update)


def _lion_8bit(numel: Numel) -> tuple[Op, ...]:
    old, new, total, sign = (Block(name, numel, "float32") for name in ("old", "new", "total", "sign"))
    return bind(old), bind(new), bind(total), drop(old), drop(new), bind(sign), drop(total), drop(sign)


def _lion(numel: Numel) -> tuple[Op, ...]:
    old, total, sign = (Block(name, numel, "float32") for name in ("old", "total", "sign"))
    return bind(old), bind(total), drop(old), bind(sign), drop(total), drop(sign)

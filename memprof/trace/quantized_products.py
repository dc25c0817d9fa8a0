"""Products with bitsandbytes' quantized weights on fake tensors, as CUDA does them.

A fake tensor says that it is on the CPU, where bitsandbytes trains 8-bit layers through dequantized weights; on CUDA it
quantizes their input. And the fake kernels of its ops tell of outputs alone. Inputs are taken to have no outliers.

Source: bitsandbytes 0.50.2 wheel, autograd/_functions.py (``matmul``), backends/cuda/ops.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

from memprof.model.scenario import Quantization
from memprof.semantics.quantization import forward_steps
from memprof.trace.replaced import replaced


@contextmanager
def eight_bit_inputs() -> Iterator[None]:
    """While open, 8-bit layers quantize their input whether or not they train."""
    try:
        import bitsandbytes
        from bitsandbytes.autograd._functions import MatMul8bitLt
    except ImportError:
        yield
        return

    def matmul(
        rows: Any, weight: Any, out: Any = None, state: Any = None, threshold: float = 0.0, bias: Any = None
    ) -> Any:
        state.threshold = threshold or state.threshold
        return MatMul8bitLt.apply(rows, weight, out, bias, state)

    with replaced(bitsandbytes, "matmul", matmul):
        yield


def quantized_scratch(op: str, args: tuple[Any, ...]) -> tuple[int, ...]:
    """Bytes of the blocks that an op of bitsandbytes holds beside its outputs when it holds most."""
    rule = _SCRATCH.get(op)
    return () if rule is None else rule(*args)


def _quantizing(rows: Any, *_: Any) -> tuple[int, ...]:
    """Absolute values in float16, and which of them are outliers."""
    return 2 * rows.numel(), rows.numel()


def _eight_bit(rows: Any, quantized: Any, weight: Any, *_: Any) -> tuple[int, ...]:
    """The product in int32, and in float16 where that is not the output."""
    elements = prod(quantized.shape[:-1]) * weight.shape[0]
    return (4 * elements,) if _dtype(rows) == "float16" else (4 * elements, 2 * elements)


def _four_bit(rows: Any, _: Any, shape: tuple[int, int], *rest: Any) -> tuple[int, ...]:
    """The weight dequantized, and its scales where those are quantized too: the fifth of ``rest``."""
    quantization: Quantization = "nf4-double" if len(rest) > 4 and rest[4] is not None else "nf4"
    num_rows = prod(rows.shape[:-1])
    steps = forward_steps(quantization, num_rows, *shape, _dtype(rows), device_kind="cuda", training=True)
    return tuple(step.num_bytes for step in steps if step.action == "alloc" and step.name != "output")


_SCRATCH: dict[str, Callable[..., tuple[int, ...]]] = {
    "bitsandbytes::int8_vectorwise_quant": _quantizing,
    "bitsandbytes::int8_mixed_scaled_mm": _eight_bit,
    "bitsandbytes::gemm_4bit": _four_bit,
}


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")

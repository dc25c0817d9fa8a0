"""Products with bitsandbytes' quantized weights on fake tensors, as CUDA does them.

A fake tensor says that it is on the CPU, where bitsandbytes trains 8-bit layers through dequantized weights; on CUDA it
quantizes their input. And the fake kernels of its ops tell of outputs alone. Inputs are taken to have no outliers.

Source: bitsandbytes 0.50.2 wheel, autograd/_functions.py (``matmul``), backends/cuda/ops.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

from memprof.semantics.quantization import forward_steps
from memprof.trace.replaced import replaced

_SCALES_OF_SCALES = 7
"""The place of ``absmax_8bit`` among the arguments of ``gemm_4bit``."""


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
    rows = prod(args[0].shape[:-1])
    dtype = str(args[0].dtype).removeprefix("torch.")
    if op == "bitsandbytes::int8_vectorwise_quant":
        elements = args[0].numel()
        return 2 * elements, elements  # absolute values in float16, and which of them are outliers
    if op == "bitsandbytes::int8_mixed_scaled_mm":
        elements = rows * args[2].shape[0]
        return (4 * elements,) if dtype == "float16" else (4 * elements, 2 * elements)  # in int32, then in float16
    if op == "bitsandbytes::gemm_4bit":
        is_double = len(args) > _SCALES_OF_SCALES and args[_SCALES_OF_SCALES] is not None
        num_out, num_in = args[2]
        steps = forward_steps("nf4-double" if is_double else "nf4", rows, num_out, num_in, dtype, "cuda", False)
        return tuple(step.num_bytes for step in steps if step.action == "alloc" and step.name != "output")
    return ()

"""What CUDA kernels allocate beside their outputs, as functions of shapes.

The rows below were read off recorded GPU tapes and PyTorch's source. On the tapes all other kernels allocate their
outputs only: elementwise ops, ``silu``, ``cat``, softmax and log-softmax in both directions, ``nll_loss`` (whose
backward's output is as large as its input), products other than for their workspace.

Scratch of the CUB library (sorting, ``nonzero``) is left out: its size is CUB's own, and it is freed before the larger
buffers of the same op are asked for. The tapes show 1 to 17,663 bytes of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from memprof.semantics.attention import Buffer
from memprof.semantics.device import Semantics

_MAX_THREADS = 512
_WARP = 32
_VECTOR = 4
_MIN_VALUES, _MAX_VALUES = 16, 256

# Resident threads of a multiprocessor. Source: CUDA C++ Programming Guide, technical specifications per compute
# capability.
_THREADS_PER_MULTIPROCESSOR = {
    (7, 0): 2048, (7, 5): 1024, (8, 0): 2048, (8, 6): 1536, (8, 7): 1536, (8, 9): 1536,
    (9, 0): 2048, (10, 0): 2048, (10, 3): 2048, (12, 0): 1536, (12, 1): 1536,
}  # fmt: skip


class Scratch(NamedTuple):
    """Bytes of the two blocks that a reduction allocates after its output and frees when launched."""

    buffer_bytes: int
    semaphore_bytes: int


@lru_cache(maxsize=512)
def reduction_scratch(
    sem: Semantics, *, num_outputs: int, num_inputs: int, over_last: bool, item_bytes: int = 4
) -> Scratch | None:
    """What ``sum``, ``mean``, ``norm`` or ``max`` asks for where blocks must share one output, else None.

    The gradient of a bias or of a norm's weight is such a sum over all tokens.

    Args:
        sem: the device; how many blocks a reduction is cut into depends on its multiprocessors.
        num_outputs: elements of the result.
        num_inputs: elements that are reduced into each of them.
        over_last: whether the reduced elements lie next to each other in memory.
        item_bytes: of the accumulator: 4 for sums of any floating dtype, 16 for ``max`` with its index.

    Source: aten/src/ATen/native/cuda/Reduce.cuh (``setReduceConfig``, ``global_memory_size``, ``semaphore_size``).
    """
    if sem.kind == "cpu":
        return None
    vector = 1
    if over_last:
        fast = num_inputs // _VECTOR if num_inputs > 128 else num_inputs
        slow = num_outputs
    else:
        while vector < _VECTOR and num_outputs % (2 * vector) == 0:
            vector *= 2
        fast, slow = num_outputs // vector, num_inputs
    limit = _MAX_THREADS // vector
    fast_threads, slow_threads = min(_last_power(fast), limit), min(_last_power(slow), limit)
    width = min(fast_threads, _WARP)
    height = min(slow_threads, limit // width)
    width = min(fast_threads, limit // height)

    step_input, step_output = (width, 1) if over_last else (1, width)
    values = _ceil(num_inputs, step_input)
    if not (values >= height * _MIN_VALUES or values >= _MAX_VALUES):
        return None
    values = _ceil(num_inputs, step_input * height)
    grid = _ceil(num_outputs // vector, step_output)
    resident = _THREADS_PER_MULTIPROCESSOR.get(sem.capability, 2048)
    target = sem.num_multiprocessors * (resident // (width * height))
    if values < _MAX_VALUES or grid > target:
        return None
    blocks = max(min(_ceil(target, grid), _ceil(values, _MIN_VALUES)), _ceil(values, _MAX_VALUES))
    if blocks <= 1:
        return None
    lanes = 1 if over_last else width * vector
    return Scratch(item_bytes * num_outputs * blocks * lanes, 4 * grid)


def embedding_backward_temporaries(num_indices: int, num_weights: int, width: int) -> tuple[Buffer, ...]:
    """What ``embedding_dense_backward`` holds at once beside its result, in order of allocation; the last is the bulk.

    Up to 3072 indices are added by atomics and need nothing. More are sorted, summed in segments of at most 10 rows in
    float32, and scattered: float32 rows for a tenth of the indices and for each row that can occur.

    Source: aten/src/ATen/native/cuda/Embedding.cu (``embedding_dense_backward_cuda``), EmbeddingBackwardKernel.cu
    (``embedding_backward_cuda_kernel``).
    """
    if num_indices <= 3072:
        return ()
    segments = min(num_indices, num_weights)
    partial = num_indices // 10 + segments
    indices, each = Buffer((num_indices,), "int64"), Buffer((segments,), "int64")
    scalar = Buffer((), "int64")
    return (
        *(indices, indices),  # sorted, and where they came from
        *(each, scalar, each, each, scalar),  # offsets and counts of segments
        Buffer((partial,), "int64"),
        Buffer((partial, width), "float32"),
    )


def index_put_temporaries(num_indices: int) -> tuple[Buffer, ...]:
    """What the backward of indexing by one tensor holds at once: linear, sorted and original indices, and a range.

    Source: aten/src/ATen/native/cuda/Indexing.cu (``index_put_with_sort_kernel``); seen on all tapes that index.
    """
    return (Buffer((num_indices,), "int64"),) * 4


def layer_norm_backward_temporaries(sem: Semantics, rows: int, width: int, dtype: str) -> tuple[Buffer, ...]:
    """Partial sums of the gradients of weight and bias: on CUDA for very many narrow rows, on the CPU one each thread.

    Source: aten/src/ATen/native/cuda/layer_norm_kernel.cu (``LaunchGammaBetaBackwardCUDAKernel``), from 2.7 on;
    aten/src/ATen/native/cpu/layer_norm_kernel.cpp (``LayerNormBackwardKernelImplInternal``).
    """
    if sem.kind == "cpu":
        return (Buffer((2, sem.num_threads, width), dtype),)
    columns = _ceil(width, _WARP)
    if sem.torch < (2, 7) or rows <= 65536 or width // _WARP >= sem.num_multiprocessors // 2:
        return ()
    partial = Buffer((min(32768 // columns, _ceil(rows, 32)), width), dtype)
    return (partial, partial)


def layer_norm_statistics_dtype(sem: Semantics, dtype: str, weight_dtype: str | None) -> str:
    """Dtype of the mean and reciprocal deviation that layer norm saves for each row.

    Source: aten/src/ATen/native/cuda/layer_norm_kernel.cu (``layer_norm_cuda``: the accumulation type);
    aten/src/ATen/native/layer_norm.cpp (``layer_norm_cpu``: the input's, float32 where only the weight is).
    """
    if sem.kind == "cpu" and weight_dtype in (None, dtype):
        return dtype
    return "float64" if dtype == "float64" else "float32"


def dropout_mask(sem: Semantics, shape: tuple[int, ...], dtype: str) -> Buffer:
    """What dropout saves: on CUDA a bool mask, allocated before the output; on the CPU noise in the input's dtype.

    Source: aten/src/ATen/native/cuda/Dropout.cu (``dropout_cuda``), aten/src/ATen/native/Dropout.cpp.
    """
    return Buffer(shape, dtype if sem.kind == "cpu" else "bool")


def _last_power(size: int) -> int:
    """The largest power of two that is not above ``size``."""
    return 1 << (max(size, 1).bit_length() - 1)


def _ceil(size: int, unit: int) -> int:
    return -(-size // unit)

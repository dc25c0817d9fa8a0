"""What the kernel behind an ATen op allocates and frees besides its outputs, by the op's name.

One row of ``_RULES`` is one kernel. An op without a row allocates its outputs only, or nothing: of the ops on the
recorded GPU tapes that holds for elementwise ops, ``cat``, softmax and log-softmax in both directions, ``nll_loss``,
products (but for workspaces, see `memprof.semantics.workspace`), fused and foreach optimizer steps, and
``_amp_foreach_non_finite_check_and_unscale_``. Attention has scripts of its own (`memprof.semantics.attention`).

Left out, because it is small or not to be known: scratch of the CUB library in ``sort``, ``cumsum``, ``nonzero`` and
``topk`` (1 to 17,663 bytes on the tapes), and what cuDNN asks for as workspace of convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any, NamedTuple

import msgspec

from memprof.model.dtypes import ITEM_BYTES
from memprof.semantics.device import Semantics
from memprof.semantics.kernels import (
    embedding_backward_temporaries,
    index_put_temporaries,
    layer_norm_backward_temporaries,
    reduction_scratch,
)
from memprof.semantics.workspace import cublaslt_call_bytes

PRODUCTS = frozenset(
    ("mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "_addmm_activation", "linalg_vecdot")
)
"""Ops that go to cuBLAS and so give their thread its workspace. On the CPU there is none."""


class Operand(NamedTuple):
    """A tensor that an op is given or returns: strides in elements."""

    shape: tuple[int, ...]
    dtype: str
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.numel * ITEM_BYTES[self.dtype]

    @property
    def is_contiguous(self) -> bool:
        return self._is_dense_in(range(len(self.shape)))

    @property
    def is_channels_last(self) -> bool:
        """Of images and volumes: dense with the channels innermost."""
        dims = len(self.shape)
        return dims in (4, 5) and self._is_dense_in((0, *range(2, dims), 1))

    def _is_dense_in(self, order: Iterable[int]) -> bool:
        """Whether the elements fill memory without gaps, the last dimension of ``order`` innermost."""
        expected = 1
        for dim in reversed(tuple(order)):
            if self.shape[dim] != 1 and self.stride[dim] != expected:
                return False
            expected *= self.shape[dim]
        return True


class Call(msgspec.Struct, frozen=True):
    """One call of an op.

    Attributes:
        args: in the order of the schema, defaults spelled out; tensors are `Operand`, lists are tuples.
        outputs: the tensors that it returns.
    """

    args: tuple[Any, ...]
    outputs: tuple[Operand, ...]


Rule = Callable[[Semantics, Call], Iterable[int]]


def kernel_allocations(sem: Semantics, op: str, call: Call) -> tuple[int, ...]:
    """Bytes of the blocks that a kernel has at once beside its inputs and outputs, in order of allocation.

    Copies of inputs come before the outputs, most other blocks after them; all are gone when the kernel is launched.

    Args:
        sem: the device.
        op: name without namespace and overload: ``sum``.
        call: what it was given and returned.
    """
    rule = (_CPU_RULES if sem.kind == "cpu" else _RULES).get(op)
    return (*_copies(sem, op, call), *(rule(sem, call) if rule is not None else ()))


# --- inputs that a kernel copies because of their strides

_CONTIGUOUS = {
    "_softmax": (0,), "_log_softmax": (0,), "_softmax_backward_data": (0, 1), "_log_softmax_backward_data": (0, 1),
    "native_layer_norm": (0,), "native_layer_norm_backward": (0, 1), "_fused_rms_norm": (0,),
    "_fused_rms_norm_backward": (0, 1), "embedding_dense_backward": (0, 1), "_safe_softmax": (0,),
    "nll_loss_forward": (0, 1), "nll_loss_backward": (1, 2),
    "reflection_pad1d": (0,), "reflection_pad2d": (0,), "reflection_pad3d": (0,),
}  # fmt: skip
"""Arguments that a kernel makes contiguous. Source: SoftMax.cu, layer_norm_kernel.cu, Embedding.cu, Loss.cu and
ReflectionPad.cu in aten/src/ATen/native/cuda (``contiguous``, ``expect_contiguous``)."""
_IMAGES = {
    "native_batch_norm": (0,), "native_batch_norm_backward": (0, 1),
    "convolution": (0, 1), "convolution_backward": (0, 1, 2),
}  # fmt: skip
"""Arguments that are made contiguous unless their channels are innermost.

Source: aten/src/ATen/native/cudnn/BatchNorm.cpp (seen on gpu24_octree_nca_train) and ConvShared.cpp."""
_MATRICES = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}


def _copies(sem: Semantics, op: str, call: Call) -> list[int]:
    if sem.kind == "cpu":
        return []
    plain = [call.args[index] for index in _CONTIGUOUS.get(op, ())]
    strided = [operand for operand in plain if operand is not None and not operand.is_contiguous]
    images = [call.args[index] for index in _IMAGES.get(op, ())]
    strided += [image for image in images if not (image.is_contiguous or image.is_channels_last)]
    strided += [call.args[index] for index in _MATRICES.get(op, ()) if not _suits_blas(call.args[index])]
    return [operand.num_bytes for operand in strided]


def _suits_blas(matrix: Operand) -> bool:
    """Whether one of the last two dimensions is dense and the other's stride clears it.

    Source: aten/src/ATen/native/cuda/Blas.cpp (``prepare_matrix_for_cublas``, ``prepare_batch_matrix_for_cublas``).
    """
    (rows, columns), (row_stride, column_stride) = matrix.shape[-2:], matrix.stride[-2:]
    by_row = column_stride == 1 and row_stride >= max(1, columns)
    by_column = row_stride == 1 and column_stride >= max(1, rows)
    return by_row or by_column


# --- reductions


def _reduction(item_bytes: Callable[[Operand], int]) -> Rule:
    """``gpu_reduce_kernel``: its two staging blocks, where an output is shared by blocks of threads.

    Source: aten/src/ATen/native/cuda/Reduce.cuh; seen on the tapes for ``sum``, ``mean``, ``norm`` and ``max``.
    """

    def rule(sem: Semantics, call: Call) -> Iterable[int]:
        operand, output = call.args[0], call.outputs[0]
        if not output.numel or not operand.numel:
            return ()
        scratch = reduction_scratch(
            sem,
            num_outputs=output.numel,
            num_inputs=operand.numel // output.numel,
            over_last=_reduces_fastest(operand, output),
            item_bytes=item_bytes(operand),
        )
        return scratch or ()

    return rule


def _reduces_fastest(operand: Operand, output: Operand) -> bool:
    """Whether the dimension with the smallest stride is among those that are summed over.

    Which they are is read from the shapes: the dimensions of the input that are not the output's.
    """
    dims = [dim for dim, size in enumerate(operand.shape) if size > 1]
    if not dims or output.numel == 1:
        return True
    fastest = min(dims, key=lambda dim: operand.stride[dim])
    return fastest not in _kept(operand.shape, output.shape)


def _kept(whole: tuple[int, ...], left: tuple[int, ...]) -> set[int]:
    if len(whole) == len(left):
        return {dim for dim, size in enumerate(left) if size == whole[dim]}
    kept, start = set(), 0
    for size in left:
        start = whole.index(size, start) if size in whole[start:] else start
        kept.add(start)
        start += 1
    return kept


def _accumulated(operand: Operand) -> int:
    """Floats are summed in float32 or wider, integers in int64."""
    return 4 if operand.dtype in ("float16", "bfloat16", "float32") else 8


def _own(operand: Operand) -> int:
    return ITEM_BYTES[operand.dtype]


def _with_index(_: Operand) -> int:
    """A value and its int64 index."""
    return 16


def _welford(operand: Operand) -> int:
    """Mean, sum of squares and two counts.

    Source: torch 2.13 wheel: include/ATen/native/SharedReduceOps.h (``WelfordData``).
    """
    return 32 if operand.dtype == "float64" else 16


def _extremum(sem: Semantics, call: Call) -> Iterable[int]:
    """``max`` and ``min``: over a dimension with the index, over everything without."""
    return _reduction(_with_index if len(call.outputs) == 2 else _own)(sem, call)


def _logsumexp(sem: Semantics, call: Call) -> Iterable[int]:
    """The maxima, and the differences to them that become exponentials in place.

    Source: aten/src/ATen/native/ReduceOps.cpp (``logsumexp_out_impl``).
    """
    return call.outputs[0].num_bytes, call.args[0].num_bytes


def _foreach_norm(_: Semantics, call: Call) -> Iterable[int]:
    """A float32 partial result for each 65,536 elements of the largest tensor, for every tensor.

    Source: aten/src/ATen/native/cuda/ForeachReduceOp.cu (``foreach_tensor_norm_cuda``).
    """
    tensors = call.args[0]
    chunks = max((-(-tensor.numel // 65536) for tensor in tensors), default=0)
    return (4 * chunks * len(tensors),)


# --- others


def _embedding_backward(_: Semantics, call: Call) -> Iterable[int]:
    grad, indices, num_weights = call.args[:3]
    buffers = embedding_backward_temporaries(indices.numel, num_weights, grad.shape[-1])
    return tuple(buffer.num_bytes for buffer in buffers)


def _index_put(_: Semantics, call: Call) -> Iterable[int]:
    """Where values add up, indices are sorted and values made contiguous; else nothing.

    Source: aten/src/ATen/native/cuda/Indexing.cu (``index_put_with_sort_kernel``); seen on four tapes.
    """
    indices, values, accumulate = call.args[1:4]
    if not accumulate:
        return ()
    given = [index for index in indices if index is not None]
    num_indices = max(index.numel for index in given)
    copied = [] if values.is_contiguous else [values.num_bytes]
    widened = [8 * index.numel for index in given if index.dtype != "int64"]
    return *widened, *copied, *(buffer.num_bytes for buffer in index_put_temporaries(num_indices))


def _layer_norm_backward(sem: Semantics, call: Call) -> Iterable[int]:
    """Argument 2 is the normalized shape in both layer norm and RMS norm; the latter has no bias."""
    operand = call.args[1]
    width = prod(call.args[2])
    buffers = layer_norm_backward_temporaries(sem, operand.numel // max(width, 1), width, operand.dtype)
    sums = len(call.outputs) - 1  # of weight and bias, as asked for
    return tuple(buffer.num_bytes for buffer in (buffers if sem.kind == "cpu" else buffers[:sums]))


def _safe_softmax(_: Semantics, call: Call) -> Iterable[int]:
    """Which scores are minus infinity, and in which rows all are.

    Source: aten/src/ATen/native/transformers/attention.cpp (``_safe_softmax``).
    """
    scores = call.args[0]
    return scores.numel, scores.numel // max(scores.shape[call.args[1]], 1)


def _loss(copies: int) -> Rule:
    """The loss of each element, unless that is the output; structured kernels make it twice and use one.

    Source: aten/src/ATen/native/BinaryOps.cpp (``mse_loss``, ``smooth_l1_loss``: their ``META_FUNC`` builds an iterator
    of its own), Loss.cpp (``huber_loss_out``). Measured on the CPU, whose code is the same.
    """

    def rule(_: Semantics, call: Call) -> Iterable[int]:
        return () if call.outputs[0].shape == call.args[0].shape else (call.args[0].num_bytes,) * copies

    return rule


def _cross_entropy_of_logits(sem: Semantics, call: Call) -> Iterable[int]:
    """The logarithms of sigmoids, on the CPU with a buffer, beside the loss of each element if that is no output.

    Source: aten/src/ATen/native/Loss.cpp, Activation.cpp (``log_sigmoid_forward``); gpu24_octree_nca_train has one.
    """
    whole, out = call.args[0], call.outputs[0]
    beside = [whole.num_bytes] if sem.kind == "cuda" else [whole.num_bytes, whole.num_bytes]
    return beside if out.shape == whole.shape else [*beside, whole.num_bytes]


def _masked_scatter(_: Semantics, call: Call) -> Iterable[int]:
    """The mask in the input's shape, and an int64 position for each of its elements.

    Source: aten/src/ATen/native/cuda/IndexKernel.cpp (``masked_scatter__cuda``).
    """
    operand, mask = call.args[:2]
    expanded = [] if mask.shape == operand.shape and mask.is_contiguous else [operand.numel]
    return *expanded, 8 * operand.numel


def _group_norm(_: Semantics, call: Call) -> Iterable[int]:
    """A float32 scale and shift for each channel of each sample.

    Source: aten/src/ATen/native/cuda/group_norm_kernel.cu (``GroupNormKernelImplInternal``).
    """
    samples, channels = call.args[3:5]
    return (4 * samples * channels,) * 2


def _bias_product(sem: Semantics, call: Call) -> Iterable[int]:
    """What a product with a bias of one dimension takes for itself: it goes to cuBLASLt."""
    num_bytes = cublaslt_call_bytes(sem)
    bias, left, right = call.args[:3]
    through_lt = len(bias.shape) == 1 and left.shape[0] > 1 and right.shape[1] > 1
    return (num_bytes,) if num_bytes and through_lt else ()


_LOSSES: dict[str, Rule] = {"mse_loss": _loss(2), "smooth_l1_loss": _loss(2), "huber_loss": _loss(1)}

_RULES: dict[str, Rule] = {
    **dict.fromkeys(("sum", "nansum", "mean", "prod", "linalg_vector_norm", "norm"), _reduction(_accumulated)),
    **dict.fromkeys(("amax", "amin"), _reduction(_own)),
    **dict.fromkeys(("any", "all"), _reduction(lambda _: 1)),
    **dict.fromkeys(("argmax", "argmin"), _reduction(_with_index)),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean"), _reduction(_welford)),
    **dict.fromkeys(("max", "min"), _extremum),
    **dict.fromkeys(("index_put", "index_put_", "_index_put_impl_"), _index_put),
    **dict.fromkeys(("native_layer_norm_backward", "_fused_rms_norm_backward"), _layer_norm_backward),
    **_LOSSES,
    **dict.fromkeys(("masked_scatter", "masked_scatter_"), _masked_scatter),
    "binary_cross_entropy_with_logits": _cross_entropy_of_logits,
    "logsumexp": _logsumexp,
    "_foreach_norm": _foreach_norm,
    "embedding_dense_backward": _embedding_backward,
    "_safe_softmax": _safe_softmax,
    "native_group_norm": _group_norm,
    "addmm": _bias_product,
}

_CPU_RULES: dict[str, Rule] = {
    "native_layer_norm_backward": _layer_norm_backward,
    "_safe_softmax": _safe_softmax,
    "binary_cross_entropy_with_logits": _cross_entropy_of_logits,
    **_LOSSES,
}

CONCERNED = frozenset((*_RULES, *_CPU_RULES, *_CONTIGUOUS, *_IMAGES, *_MATRICES))
"""All ops for which `kernel_allocations` may know something."""

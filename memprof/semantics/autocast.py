"""Autocast: which ops change the dtype of their inputs, and which casts of weights are kept.

Only the ops that Hugging Face models use are listed for the CPU's fp32 policy; CUDA's lists are complete but for linear
algebra that no model calls. An op that is in no list runs in whatever dtype it is given. ``float64`` is never cast.

Source: torch 2.13 wheel: include/ATen/autocast_mode.h (``AT_FORALL_*``, ``cached_cast``);
aten/src/ATen/autocast_mode.cpp for the CPU.
"""

from __future__ import annotations

from typing import Literal

from memprof.semantics.device import Semantics

Policy = Literal["lower", "fp32", "promote", "none"]

_LOWER_BOTH = (
    "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "prelu",
    "addmm", "matmul", "mm", "linalg_vecdot", "linear", "addbmm", "baddbmm", "bmm", "scaled_dot_product_attention",
)  # fmt: skip
_LOWER_CUDA = (
    "convolution", "_convolution", "cudnn_convolution", "cudnn_convolution_transpose", "addmv", "addr", "einsum", "mv",
    "chain_matmul", "linalg_multi_dot", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
    "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "_scaled_dot_product_flash_attention",
)  # fmt: skip
_LOWER_CPU = ("_native_multi_head_attention",)

_FP32_LOSSES = (
    "cosine_embedding_loss", "poisson_nll_loss", "nll_loss", "nll_loss2d", "hinge_embedding_loss", "kl_div", "l1_loss",
    "smooth_l1_loss", "huber_loss", "mse_loss", "margin_ranking_loss", "multilabel_margin_loss", "soft_margin_loss",
    "triplet_margin_loss", "multi_margin_loss", "binary_cross_entropy_with_logits",
)  # fmt: skip
_FP32_CUDA = (
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh",
    "tan", "pow", "softplus", "layer_norm", "native_layer_norm", "rms_norm", "group_norm", "frobenius_norm",
    "nuclear_norm", "cosine_similarity", "dist", "pdist", "cdist", "renorm", "logsumexp", "upsample_nearest1d",
    "_upsample_nearest_exact1d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_nearest3d",
    "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d", "_upsample_bilinear2d_aa",
    "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bicubic2d_aa", "norm",
)  # fmt: skip
_FP32_CPU = ("cross_entropy_loss", "binary_cross_entropy", "prod", "cdist", "avg_pool3d", "grid_sampler")

FP32_BY_DTYPE = frozenset(
    ("prod", "softmax", "log_softmax", "cumprod", "cumsum", "linalg_vector_norm", "linalg_matrix_norm", "sum")
)
"""CUDA ops of the fp32 policy that are told ``dtype=float32`` instead of being handed a cast input.

Reductions convert as they read. Softmax does so for float16 only; from bfloat16 it makes a float32 copy
(aten/src/ATen/native/SoftMax.cpp, ``softmax``).
"""

_PROMOTE_CUDA = (
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put", "tensordot",
    "scatter_add",
)  # fmt: skip
_PROMOTE_CPU = ("stack", "cat", "index_copy")


def _table(**names: tuple[str, ...]) -> dict[str, Policy]:
    policies: dict[str, Policy] = {"lower": "lower", "fp32": "fp32", "promote": "promote"}
    return {op: policies[policy] for policy, ops in names.items() for op in ops}


CUDA_POLICIES = _table(
    lower=(*_LOWER_BOTH, *_LOWER_CUDA), fp32=(*_FP32_LOSSES, *_FP32_CUDA, *FP32_BY_DTYPE), promote=_PROMOTE_CUDA
)
CPU_POLICIES = _table(lower=(*_LOWER_BOTH, *_LOWER_CPU), fp32=(*_FP32_LOSSES, *_FP32_CPU), promote=_PROMOTE_CPU)


def autocast_policy(sem: Semantics, op: str) -> Policy:
    """What autocast does to the floating inputs of ``op`` (an ATen name without overload).

    ``lower``: cast to autocast's dtype. ``fp32``: cast to float32. ``promote``: cast to the widest among the inputs.
    ``none``: left alone. An op made of others (``cross_entropy_loss`` on CUDA) answers for itself alone: ask for each
    of its parts (``log_softmax``, ``nll_loss``). ``rms_norm`` joined CUDA's fp32 list in 2.12 (pytorch#174824).
    """
    if sem.kind == "cpu":
        return CPU_POLICIES.get(op, "none")
    if op == "rms_norm" and sem.torch < (2, 12):
        return "none"
    return CUDA_POLICIES.get(op, "none")


def keeps_cast(*, dtype: str, is_leaf: bool, requires_grad: bool, is_view: bool = False) -> bool:
    """Whether the cast of a tensor to autocast's dtype is kept and used again until the outermost autocast ends.

    So a trainable float32 weight has one low-precision copy for the whole forward, whatever activation checkpointing
    drops; a frozen one (LoRA's base) is cast anew at each use. Under ``no_grad`` casts are kept as well.
    """
    return dtype == "float32" and is_leaf and requires_grad and not is_view

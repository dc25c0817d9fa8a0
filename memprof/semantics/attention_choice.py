"""Which kernel ``scaled_dot_product_attention`` takes: PyTorch's own filters, in PyTorch's own order.

The kernel of the flash-attn library is never chosen, only asked for: it is called in place of that function.

Each filter answers why a kernel cannot run, or None. Dense inputs only; ``torch.use_deterministic_algorithms`` off.

Source: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (``select_sdp_backend`` and ``can_use_*``),
aten/src/ATen/native/transformers/sdp_utils_cpp.cpp for the CPU, torch 2.13 wheel:
include/ATen/native/transformers/sdp_utils_cpp.h for the filters that both share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from memprof.errors import UnsupportedError
from memprof.semantics.attention import AttentionCall, Kernel
from memprof.semantics.device import Semantics

Backend = Literal["flash", "efficient", "cudnn", "math", "flash-attn"]

_HALF = ("float16", "bfloat16")
_OLDEST, _NEWEST = (8, 0), (12, 1)


def choose(sem: Semantics, call: AttentionCall, *, forced: Backend | None = None) -> Kernel:
    """The kernel that runs; ``forced`` is what ``torch.nn.attention.sdpa_kernel`` would allow alone.

    Raises:
        UnsupportedError: the forced kernel cannot run this call, and why.
    """
    if sem.kind == "cpu":
        return _choose_cpu(call, forced)
    if forced is not None:
        reason = _FILTERS[forced](sem, call)
        if reason is not None:
            raise UnsupportedError(f"{forced} attention cannot run here: {reason}", "use attention: sdpa")
        return forced
    order: tuple[Backend, ...] = ("flash", "efficient", "math")
    if prefers_cudnn(sem):
        order = ("cudnn", *order)
    return next(backend for backend in order if _FILTERS[backend](sem, call) is None)


def prefers_cudnn(sem: Semantics) -> bool:
    """Whether cuDNN comes before flash: from 2.9 on sm_90 and sm_100, where the cuDNN of the wheel is new enough.

    With default wheels: 2.9 yes (any cuDNN >= 9.9 when built), 2.10 no (9.10 is older than 9.15.1), 2.11 and later yes.
    ``TORCH_CUDNN_SDPA_DEPRIORITIZED=1`` turns it off from 2.10 on, which memprof does not see.

    Source: ``check_prefer_cudnn_attention`` in sdp_utils.cpp; pytorch#162073 (2.9), #171627 (2.10);
    huggingface/transformers#48163 observes the change between 2.10 and 2.11.
    """
    major, minor = sem.capability
    if sem.cudnn is None or major not in (9, 10) or sem.torch < (2, 9):
        return False
    if sem.torch == (2, 9):
        return sem.cudnn >= 90900 and minor == 0
    if sem.cuda is not None and sem.cuda >= (13, 0) and sem.torch >= (2, 13):
        return sem.cudnn > 91500
    return sem.cudnn > 91500 and minor in (0, 3)


def _choose_cpu(call: AttentionCall, forced: Backend | None) -> Kernel:
    if forced == "math":
        return "math"
    if forced in ("efficient", "cudnn", "flash-attn"):
        raise UnsupportedError(f"{forced} attention does not exist on the CPU", "use attention: sdpa or sdpa-math")
    reason = _cpu_flash(call)
    if reason is None:
        return "flash-cpu"
    if forced == "flash":
        raise UnsupportedError(f"flash attention cannot run on the CPU: {reason}", "use attention: sdpa")
    return "math"


def _cpu_flash(call: AttentionCall) -> str | None:
    if call.dropout > 0:
        return "the CPU kernel has no dropout"
    if call.dtype not in ("float64", "float32", *_HALF):
        return f"it does not take {call.dtype}"
    if call.head_dim != call.value_head_dim:
        return "query, key and value must have the same head width"
    if call.mask_requires_grad:
        return "the mask needs a gradient"
    return _heads(call, gqa=True) or _lengths(call) or _mask_shape(call)


def _flash(sem: Semantics, call: AttentionCall) -> str | None:
    capability = sem.capability
    if call.mask_shape is not None:
        return "it takes no mask"
    if call.head_dim != call.value_head_dim or call.head_dim > 256:
        return "it needs equal head widths of at most 256"
    if not _OLDEST <= capability <= _NEWEST:
        return f"it needs sm_80 to sm_121, not {sem.architecture}"
    # Backward kernels for wide heads do not fit the smaller shared memory of these cards.
    small = (8, 6) <= capability <= (8, 9) or (12, 0) <= capability <= (12, 1)
    if call.requires_grad and small and (192 < call.head_dim <= 224 or (call.head_dim > 224 and call.dropout > 0)):
        return f"its backward for head width {call.head_dim} does not run on {sem.architecture}"
    if call.is_causal and call.q_len != call.kv_len:
        return "causal attention needs as many queries as keys"
    return _half_dtype(sem, call) or _heads(call, gqa=True) or _lengths(call)


def _flash_attn(sem: Semantics, call: AttentionCall) -> str | None:
    """Source: flash-attn 2.8.3: csrc/flash_attn/flash_api.cpp (``mha_fwd``)."""
    if sem.capability < _OLDEST:
        return f"it needs sm_80 or newer, not {sem.architecture}"
    if call.head_dim > 256:
        return "it needs head widths of at most 256"
    return _half_dtype(sem, call)


def _efficient(sem: Semantics, call: AttentionCall) -> str | None:
    capability = sem.capability
    if not (5, 0) <= capability <= _NEWEST:
        return f"it needs sm_50 to sm_121, not {sem.architecture}"
    alignment = _gemm_alignment(capability, call.dtype)
    if call.head_dim % alignment or call.value_head_dim % alignment:
        return f"head widths must be multiples of {alignment}"
    dtypes = ("float32", *_HALF) if capability >= _OLDEST else ("float32", "float16")
    if call.dtype not in dtypes:
        return f"it does not take {call.dtype} on {sem.architecture}"
    # Grouped queries came with pytorch#191085 (July 2026), after 2.13: its wheel's header has no ``supports_mqa``.
    return _heads(call, gqa=sem.torch > (2, 13)) or _lengths(call)


def _cudnn(sem: Semantics, call: AttentionCall) -> str | None:
    version = sem.cudnn
    if version is None or version < 90000:
        return "it needs cuDNN 9"
    if call.dropout > 0 and 91100 < version < 91400:
        return "cuDNN 9.11 to 9.13 have no dropout"
    if not _OLDEST <= sem.capability <= _NEWEST:
        return f"it needs sm_80 to sm_121, not {sem.architecture}"
    if sem.torch >= (2, 12) and call.dropout * 16 % 1:  # pytorch#174245, February 2026
        return "its dropout rate must be a multiple of 1/16"
    if sem.torch >= (2, 13) and max(call.batch, call.q_heads) > 65535:  # pytorch#180718, April 2026
        return "batch and heads must be at most 65535"
    limit = _cudnn_head_dim(sem, call)
    if max(call.head_dim, call.value_head_dim) > limit or call.head_dim % 8 or call.value_head_dim % 8:
        return f"head widths must be multiples of 8, at most {limit}"
    if call.kv_len == 1 or (call.q_len == 1 and call.dropout > 0):
        return "it does not take a single key, nor dropout with a single query"
    if call.mask_requires_grad:
        return "the mask needs a gradient"
    return _half_dtype(sem, call) or _heads(call, gqa=True) or _lengths(call) or _mask_shape(call)


_FILTERS: dict[Backend, Callable[[Semantics, AttentionCall], str | None]] = {
    "flash": _flash,
    "efficient": _efficient,
    "cudnn": _cudnn,
    "flash-attn": _flash_attn,
    "math": lambda _sem, _call: None,
}


def _cudnn_head_dim(sem: Semantics, call: AttentionCall) -> int:
    """``check_cudnn_tensor_shapes``: up to 2.12 head width 256 on Hopper, then only with cuDNN above 9.22.

    That pytorch#185553 is in 2.13 is inferred: what it needs was merged on 1 June 2026, the branch cut a week later.
    """
    version, capability = sem.cudnn or 0, sem.capability
    newer = sem.torch >= (2, 13)
    if capability == (9, 0) and version >= 91000 and not newer:
        return 256
    data_center = capability == (9, 0) or capability[0] == 10
    if newer and data_center and version > 92200:
        return 256
    deepseek = (call.head_dim, call.value_head_dim) == (192, 128)
    return 192 if deepseek and version >= 91100 and (capability[0] == 10 or (newer and data_center)) else 128


def _half_dtype(sem: Semantics, call: AttentionCall) -> str | None:
    dtypes = _HALF if sem.capability >= _OLDEST else ("float16",)
    return None if call.dtype in dtypes else f"it takes {' and '.join(dtypes)}, not {call.dtype}"


def _heads(call: AttentionCall, *, gqa: bool) -> str | None:
    if call.q_heads == call.kv_heads:
        return None
    if not (gqa and call.enable_gqa):
        return "query and key have different numbers of heads"
    return None if call.q_heads % call.kv_heads == 0 else "key heads must divide query heads"


def _lengths(call: AttentionCall) -> str | None:
    return None if call.q_len and call.kv_len else "a sequence is empty"


def _mask_shape(call: AttentionCall) -> str | None:
    shape = call.mask_shape
    if shape is None:
        return None
    full = (call.batch, call.q_heads, call.q_len, call.kv_len)
    if len(shape) in (2, 4) and all(size in (1, whole) for size, whole in zip(shape, full[-len(shape) :], strict=True)):
        return None
    return f"a mask of shape {shape} is neither (q, kv) nor (batch, heads, q, kv)"


def _gemm_alignment(capability: tuple[int, int], dtype: str) -> int:
    """``minimum_gemm_alignment`` in elements."""
    half = dtype in _HALF
    tensor_cores = capability >= _OLDEST or (capability >= (7, 0) and half)
    base = 4 if capability >= _OLDEST else 1
    return max(base, 8 if half else 4) if tensor_cores else base

"""cuBLAS workspaces: buffers that matrix products take from PyTorch's allocator and keep for good."""

from __future__ import annotations

from memprof.semantics.device import Semantics
from memprof.units import KiB, MiB

_HOPPER_BYTES = 4096 * 8 * KiB
_DEFAULT_BYTES = 4096 * KiB * 2 + 16 * KiB * 8
_LT_BYTES = 1 * MiB


def cublas_workspace_bytes(sem: Semantics) -> int:
    """Bytes of one cuBLAS workspace; 0 on the CPU.

    One is allocated by the first product of each thread on each stream and never freed: training has one for the thread
    that runs the forward and one for the thread of the autograd engine that runs the backward.

    32 MiB on sm_90, and on sm_10x and sm_12x from 2.12 on (pytorch#175344); 8.125 MiB elsewhere. The recorded GPU
    tapes show 33,554,432 and 8,519,680 bytes. hipBLAS on AMD: 32 MiB, 128 MiB on gfx94x and gfx95x.

    Source: aten/src/ATen/cuda/CublasHandlePool.cpp (``parseChosenWorkspaceSize``), default of CUBLAS_WORKSPACE_CONFIG.
    """
    if sem.kind == "cpu":
        return 0
    if sem.architecture.startswith("gfx"):
        return 128 * MiB if sem.architecture.startswith(("gfx94", "gfx95")) else 32 * MiB
    major = sem.capability[0]
    if major == 9 or (major in (10, 12) and sem.torch >= (2, 12)):
        return _HOPPER_BYTES
    return _DEFAULT_BYTES


def cublaslt_call_bytes(sem: Semantics) -> int:
    """Bytes that a product with bias (``addmm``) through cuBLASLt allocates and frees around itself: 1 MiB until 2.8.

    Source: aten/src/ATen/cuda/CUDABlas.cpp (``gemm_and_bias``); kept per handle and stream since pytorch#156495 (2.9).
    """
    return _LT_BYTES if sem.kind == "cuda" and sem.torch <= (2, 8) else 0


def cublaslt_workspace_bytes(sem: Semantics) -> int:
    """Bytes of the workspace that cuBLASLt keeps beside cuBLAS's, per thread and stream: 1 MiB in 2.9 and 2.10.

    0 before, when each call has its own, and from 2.11 on, when both libraries share one buffer (pytorch#168175; torch
    2.13 wheel: torch/backends/cuda/__init__.py, ``blas_workspace_size``).
    """
    return _LT_BYTES if sem.kind == "cuda" and (2, 9) <= sem.torch <= (2, 10) else 0

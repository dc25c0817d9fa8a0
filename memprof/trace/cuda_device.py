"""A CUDA device as the recorder sees it: how its ops behave, what its kernels allocate, and cuBLAS's workspaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from memprof.model.timeline import Component
from memprof.semantics.device import Semantics
from memprof.semantics.workspace import cublas_workspace_bytes, cublaslt_workspace_bytes
from memprof.trace.cuda_overrides import device_behaviour
from memprof.trace.kernel_calls import kernel_calls, uses_lt_workspace, uses_workspace
from memprof.trace.quantized_products import eight_bit_inputs, quantized_scratch
from memprof.trace.recorder import Recorder
from memprof.trace.replaced import replaced

_PAGED_ELEMENTS = 100_000
"""States of fewer elements are not paged. Source: bitsandbytes 0.50.2 wheel, optim/optimizer.py."""


class CudaDevice:
    """One device of one process; the forward and the backward run on a thread each.

    Args:
        sem: of kind ``cuda``.
    """

    def __init__(self, sem: Semantics) -> None:
        self._sem = sem
        self._scratch = kernel_calls(sem)
        self._workspaces: set[tuple[str, bool]] = set()
        self._recorder: Recorder | None = None

    @contextmanager
    def ways(self, recorder: Recorder) -> Iterator[None]:
        """While open, fake tensors are treated as this device's, and workspaces are told to the recorder."""
        self._recorder = recorder
        with device_behaviour(self._sem), paged_states(recorder), eight_bit_inputs():
            yield

    def kernel(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> tuple[int, ...]:
        """Bytes of the blocks that an op's kernel has besides its outputs, while it runs."""
        if uses_workspace(func):
            self._take("cublas", cublas_workspace_bytes(self._sem))
            if uses_lt_workspace(func):
                self._take("cublaslt", cublaslt_workspace_bytes(self._sem))
        if func.namespace == "bitsandbytes":
            scratch = quantized_scratch(func.name(), args)
            if scratch and func.name() == "bitsandbytes::gemm_4bit":  # a product with the weight it dequantized
                self._take("cublas", cublas_workspace_bytes(self._sem))
            return scratch
        return self._scratch(func, args, kwargs, out)

    def _take(self, library: str, num_bytes: int) -> None:
        """The first product of each thread brings a workspace that stays."""
        in_backward = torch._C._current_autograd_node() is not None  # noqa: SLF001
        key = (library, in_backward)
        if self._recorder is None or not num_bytes or key in self._workspaces:
            return
        self._workspaces.add(key)
        with self._recorder.making(Component.WORKSPACE):
            self._recorder.born(num_bytes)


@contextmanager
def paged_states(recorder: Recorder) -> Iterator[None]:
    """While open, large states of bitsandbytes' paged optimizers are managed memory, which is no allocator's.

    Source: bitsandbytes 0.50.2 wheel, optim/optimizer.py (``get_state_buffer``), functional.py (``get_paged``).
    """
    try:
        from bitsandbytes.optim.optimizer import Optimizer8bit
    except ImportError:
        yield
        return
    plain = Optimizer8bit.get_state_buffer

    def buffer(optimizer: Any, parameter: Any, dtype: torch.dtype = torch.float32) -> Any:
        if not optimizer.is_paged or parameter.numel() < _PAGED_ELEMENTS:
            return plain(optimizer, parameter, dtype)
        return recorder.on_host(lambda: torch.zeros_like(parameter, dtype=dtype))

    with replaced(Optimizer8bit, "get_state_buffer", buffer):
        yield

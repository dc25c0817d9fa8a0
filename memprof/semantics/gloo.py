"""Gloo, the process group of CPU tensors: what its collectives allocate beside their outputs.

A gather fills a flat tensor of its own and copies it to the output, and a reduce-scatter is an all-reduce of a copy of
its input. An all-reduce and a broadcast work in place. NCCL needs nothing: it works on the tensors themselves.

Source: https://github.com/pytorch/pytorch/blob/main/torch/csrc/distributed/c10d/ProcessGroupGloo.cpp
(AsyncAllgatherWork, ProcessGroupGloo::reduce_scatter_tensor_coalesced).
"""

from __future__ import annotations

_GATHERS = frozenset(("_allgather_base_", "all_gather_into_tensor"))
_REDUCE_SCATTERS = frozenset(("_reduce_scatter_base_", "reduce_scatter_tensor"))
COLLECTIVES = _GATHERS | _REDUCE_SCATTERS
"""Names of ``c10d`` and ``_c10d_functional`` ops that have scratch."""


def scratch_bytes(op: str, input_bytes: int, output_bytes: int) -> int:
    """Bytes of the one block that is alive while a collective runs; 0 for one that works in place."""
    if op in _GATHERS:
        return output_bytes
    return input_bytes if op in _REDUCE_SCATTERS else 0

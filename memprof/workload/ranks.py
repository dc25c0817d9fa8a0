"""Rank 0 of any number of ranks, alone in one process.

The process group is PyTorch's own ``fake`` backend: collectives return at once and move nothing, and every object above
them - meshes, DTensors, FSDP's states, DDP's C++ reducer - is the real one. Memory is that of rank 0, values are not.

Source: torch 2.13 wheel: torch/testing/_internal/distributed/fake_pg.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from memprof.model.scenario import Parallelism
from memprof.workload.parallel import mesh_of, world_size


@contextmanager
def rank_zero(parallelism: Parallelism, device_type: str) -> Iterator[Any]:
    """While open, this process is rank 0; gives the mesh, or None where there is one rank alone."""
    if world_size(parallelism) == 1:
        yield None
        return
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    hook = sys.excepthook  # init_process_group puts a rank in front of every line of it, for good
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size(parallelism))
    try:
        yield mesh_of(parallelism, device_type)
    finally:
        dist.destroy_process_group()
        sys.excepthook = hook


@contextmanager
def ddp_alone() -> Iterator[None]:
    """While open, DDP is built without peers: its check that all have the same parameters is passed."""
    from torch.nn.parallel import distributed

    check = distributed._verify_param_shape_across_processes  # noqa: SLF001
    distributed._verify_param_shape_across_processes = lambda *_: None  # noqa: SLF001
    try:
        yield
    finally:
        distributed._verify_param_shape_across_processes = check  # noqa: SLF001


def hand_back_buckets(ddp: Any) -> None:
    """A bucket's all-reduce gives the bucket itself, as the real one does; the fake one gives nothing."""
    ddp.register_comm_hook(None, lambda _, bucket: _finished(bucket.buffer()))


def _finished(buffer: Any) -> Any:
    import torch

    future: Any = torch.futures.Future()
    future.set_result(buffer)
    return future

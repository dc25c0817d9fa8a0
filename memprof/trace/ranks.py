"""Rank 0 of any number of ranks, alone in one process, its tensors fake.

The process group is that of `memprof.workload.ranks`. What needs numbers or a peer, or would be taken for the step's
own, is answered here:

- ``wait_tensor`` gives back the tensor that it waited for, as the real one does; its fake kernel makes another;
- a bucket's all-reduce hands DDP the bucket itself, as the real one does; the fake one hands over nothing;
- DDP's parameter check is passed, and the indices by which ranks agree on rebuilt buckets are real numbers;
- DTensor finds the shapes of results on fake tensors of its own, which nobody is to see.

Source: torch 2.13 wheel: torch/distributed/_functional_collectives.py (_wait_tensor_meta);
https://github.com/pytorch/pytorch/blob/main/torch/csrc/distributed/c10d/reducer.cpp (sync_bucket_indices),
Functional.cpp (wait_tensor).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter

from memprof.model.scenario import Parallelism
from memprof.model.timeline import Component
from memprof.semantics.device import Semantics
from memprof.semantics.gloo import COLLECTIVES, scratch_bytes
from memprof.semantics.sharding import ceil_div
from memprof.trace.fully_sharded import fully_shard_seen
from memprof.trace.recorder import Recorder
from memprof.trace.replaced import replaced
from memprof.workload import ranks
from memprof.workload.parallel import world_size

_WAIT = torch.ops._c10d_functional.wait_tensor.default  # noqa: SLF001
_EMPTY = torch.ops.aten.empty.memory_format


@contextmanager
def rank_zero(parallelism: Parallelism) -> Iterator[Any]:
    """While open, this process is rank 0; gives the mesh, or None where there is one rank alone."""
    if world_size(parallelism) == 1:
        yield None
        return
    from torch.distributed.fsdp._fully_shard import _fsdp_param

    with (
        replaced(DeviceMesh, "__init__", _with_numbers(DeviceMesh.__init__)),
        replaced(DeviceMesh, "mesh", property(_with_numbers(DeviceMesh.mesh.fget))),
        replaced(_fsdp_param, "_chunk_with_empty", _first_chunk),
        ExitStack() as stack,
    ):
        with _disable_current_modes():
            mesh = stack.enter_context(ranks.rank_zero(parallelism, "cpu"))
        yield mesh


def _first_chunk(tensor: Any, num_chunks: int, dim: int) -> list[Any]:
    """Rank 0's part, which is the size of all; the other thousand would only take their time."""
    return [tensor.narrow(dim, 0, min(ceil_div(tensor.size(dim), num_chunks), tensor.size(dim)))]


def _with_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with real tensors: a mesh is made of numbers."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return function(*args, **kwargs)

    return call


@contextmanager
def parallelism_seen(recorder: Recorder, parallelism: Parallelism, semantics: Semantics) -> Iterator[None]:
    """While open, a recorder sees what a rank does; to be entered where tensors are fake."""
    with ExitStack() as stack:
        if world_size(parallelism) > 1:
            stack.enter_context(_collectives(recorder, semantics))
        if parallelism.strategy in ("fsdp", "hsdp"):
            stack.enter_context(fully_shard_seen(recorder, semantics))
        yield


@contextmanager
def _collectives(recorder: Recorder, semantics: Semantics) -> Iterator[None]:
    """While open, collectives of the fake group give what real ones would."""
    from torch.distributed.tensor._sharding_prop import ShardingPropagator
    from torch.nn.parallel import DistributedDataParallel

    wrap, rebuild = DistributedDataParallel.__init__, dist.Reducer._rebuild_buckets  # noqa: SLF001

    def wrap_with_hook(self: Any, *args: Any, **kwargs: Any) -> None:
        with recorder.making(Component.COMMUNICATION):
            wrap(self, *args, **kwargs)
        ranks.hand_back_buckets(self)

    def rebuild_by_real_indices(self: Any) -> Any:
        with recorder.making(Component.COMMUNICATION), _RealIndices():
            return rebuild(self)

    propagate = ShardingPropagator._propagate_tensor_meta_non_cached  # noqa: SLF001

    def propagate_alone(self: Any, schema: Any) -> Any:
        with _disable_current_modes():
            return propagate(self, schema)

    with (
        replaced(ShardingPropagator, "_propagate_tensor_meta_non_cached", propagate_alone),
        ranks.ddp_alone(),
        replaced(DistributedDataParallel, "__init__", wrap_with_hook),
        replaced(dist.Reducer, "_rebuild_buckets", rebuild_by_real_indices),
        _Functional(recorder, semantics),
    ):
        yield


class _Functional(TorchDispatchMode):
    """Waiting gives back what was waited for; on a CPU, gloo's scratch is there while a collective runs."""

    def __init__(self, recorder: Recorder, semantics: Semantics) -> None:
        super().__init__()
        self._recorder = recorder
        self._has_scratch = semantics.kind == "cpu"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _WAIT:
            return args[0]
        out = func(*args, **(kwargs or {}))
        if self._has_scratch and func.overloadpacket.__name__ in COLLECTIVES:
            self._use_scratch(func.overloadpacket.__name__, args, out)
        return out

    def _use_scratch(self, name: str, args: Any, out: Any) -> None:
        output, given = (args[0], args[1]) if isinstance(args[1], torch.Tensor) else (out, args[0])
        with self._recorder.making(Component.COMMUNICATION):
            self._recorder.dies(self._recorder.born(scratch_bytes(name, given.nbytes, output.nbytes)))


class _RealIndices(TorchDispatchMode):
    """Integers that are made are real, and ops on them run, seen by nobody: a few bytes a parameter, for a moment."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        makes_indices = func is _EMPTY and kwargs.get("dtype") is torch.int32
        if makes_indices or any(type(leaf) is torch.Tensor for leaf in tree_iter(args)):
            with _disable_current_modes():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

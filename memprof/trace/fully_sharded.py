"""What FSDP2 does beside ops: storages that it resizes, buffers of its collectives, and streams.

Unsharded parameters keep their tensors and give up their storages, by a call that no dispatch mode sees; so it is
followed itself. Whatever is made while parameters are gathered or gradients reduced is communication, and so are the
gradients of unsharded parameters, which are there to be reduced; the sharded gradients that come out are told apart as
they become a parameter's.

On CUDA, buffers belong to the stream that is current when they are made; PyTorch's CPU streams do nothing and can tell
as much. On a CPU there is one pool, and gradients are laid out for the reduction through copies.

Source: torch 2.13 wheel: torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py (foreach_all_gather,
foreach_all_gather_copy_out, foreach_reduce), _fsdp_param.py (alloc_storage, free_storage), _fsdp_param_group.py
(FSDPCommContext.lazy_init).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from memprof.model.timeline import Component
from memprof.semantics.device import Semantics
from memprof.semantics.sharding import Stream
from memprof.trace.recorder import Recorder
from memprof.trace.replaced import replaced

OP = "fully_shard"
_COLLECTIVES = ("foreach_all_gather", "foreach_all_gather_copy_out", "foreach_reduce")


@contextmanager
def fully_shard_seen(recorder: Recorder, semantics: Semantics) -> Iterator[None]:
    """While open, a recorder sees what ``fully_shard`` does."""
    from torch.distributed.fsdp._fully_shard import _fsdp_collectives, _fsdp_param_group

    with ExitStack() as stack:
        stack.enter_context(replaced(torch.UntypedStorage, "resize_", _resize(recorder)))
        for name in _COLLECTIVES:
            communicating = _communicating(recorder, getattr(_fsdp_param_group, name))
            stack.enter_context(replaced(_fsdp_param_group, name, communicating))
        if semantics.kind == "cpu":
            copy_in = _through_copies(recorder, _fsdp_collectives.foreach_reduce_scatter_copy_in)
            stack.enter_context(replaced(_fsdp_collectives, "foreach_reduce_scatter_copy_in", copy_in))
        else:
            context = _fsdp_param_group.FSDPCommContext
            stack.enter_context(replaced(context, "lazy_init", _numbered(context.lazy_init)))
            stack.enter_context(replaced(recorder, "stream", _current_stream))
        yield


def _resize(recorder: Recorder) -> Callable[[Any, int], Any]:
    resize = torch.UntypedStorage.resize_

    def resize_and_tell(storage: Any, num_bytes: int) -> Any:
        out = resize(storage, num_bytes)
        recorder.op(OP)
        recorder.resized(storage)
        return out

    return resize_and_tell


def _communicating(recorder: Recorder, function: Callable[..., Any]) -> Callable[..., Any]:
    def communicate(*args: Any, **kwargs: Any) -> Any:
        recorder.op(OP)
        if function.__name__ == "foreach_reduce":
            _note(recorder, args[1])
        with recorder.making(Component.COMMUNICATION):
            return function(*args, **kwargs)

    return communicate


def _note(recorder: Recorder, gradients: Iterable[Any]) -> None:
    for gradient in gradients:
        recorder.see(gradient, Component.COMMUNICATION)


def _through_copies(recorder: Recorder, function: Callable[..., None]) -> Callable[..., None]:
    """``_chunk_cat`` on a CPU pads gradients in copies, alive together, and casts them slice by slice.

    Source: https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/TensorShape.cpp (_pad_chunk, cat_out_cpu).
    """

    def copy_in(gradients: Sequence[Any], reduce_input: Any, world: int) -> None:
        recorder.op(OP)
        padded = [recorder.born(_padded_bytes(g, world)) for g in gradients if g.shape[0] % world]
        for gradient in gradients:
            if gradient.dtype != reduce_input.dtype:
                recorder.dies(recorder.born(_padded_bytes(gradient, world)))
        for block in padded:
            recorder.dies(block)
        function(gradients, reduce_input, world)

    return copy_in


def _padded_bytes(gradient: Any, world: int) -> int:
    rows = -(-gradient.shape[0] // world) * world
    return int(rows * (gradient.numel() // gradient.shape[0]) * gradient.itemsize)


def _numbered(lazy_init: Callable[..., None]) -> Callable[..., None]:
    """FSDP's streams get the numbers that ``semantics.sharding`` knows; the gather stream itself makes nothing."""

    def init(context: Any, device: Any) -> None:
        lazy_init(context, device)
        context.all_gather_copy_in_stream.number = int(Stream.COPY_IN)
        context.reduce_scatter_stream.number = int(Stream.REDUCE_SCATTER)
        context.all_reduce_stream.number = int(Stream.ALL_REDUCE)

    return init


def _current_stream() -> int:
    return getattr(torch.cpu.current_stream(), "number", int(Stream.COMPUTE))

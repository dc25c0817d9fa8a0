"""What a real run allocates on the CPU, by stage and phase: as one thread's profiler or as the allocator's log has it.

PyTorch's profiler follows one thread. Under gloo its threads make and free tensors too; there the allocator's own log
is read, which it writes, with the total of all threads, once its flag is set.

Source: https://github.com/pytorch/pytorch/blob/main/c10/core/CPUAllocator.cpp (ProfiledCPUMemoryReporter).
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from memprof.errors import MeasurementError
from memprof.model.timeline import Phase

LOG_LEVEL = {"TORCH_CPP_LOG_LEVEL": "INFO"}
"""The environment in which PyTorch writes the allocator's log; read as torch is imported."""


class Meter(ABC):
    """Follows a run from the moment at which model and batch are there.

    Attributes:
        peaks: highest requested bytes of each stage and phase; there once the meter is closed.
    """

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}

    @abstractmethod
    def running(self) -> AbstractContextManager[None]:
        """To be open from before the model is built."""

    @abstractmethod
    def built(self, tensors: Iterable[Any]) -> None:
        """Building is over, and these tensors are what it left."""

    @abstractmethod
    def stage(self, name: str) -> AbstractContextManager[None]:
        """While open, this stage runs."""

    @abstractmethod
    def phase(self, phase: Phase) -> None:
        """What follows is of this phase, up to the next one or the end of the stage."""

    def _reach(self, name: str, num_bytes: int) -> None:
        self.peaks[name] = max(self.peaks.get(name, 0), num_bytes)


class ProfilerMeter(Meter):
    """Reads the memory events of PyTorch's profiler: those of the main thread."""

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        self._phase = ExitStack()
        self._names: set[str] = set()
        self._resident = 0
        self._record: Any = None

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._open:
            yield
        now = self._resident
        for num_bytes, path in _allocations(self._record):
            before, now = now, now + num_bytes
            for name in self._names.intersection(path[:2]):
                self._reach(name, max(before, now))

    def built(self, tensors: Iterable[Any]) -> None:
        self._resident = storage_bytes(tensors)
        self._reach("load", self._resident)
        self._record = self._open.enter_context(_profiled())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with self._range(name), self._phase:
            yield

    def phase(self, phase: Phase) -> None:
        self._phase.close()
        self._phase.enter_context(self._range(phase.value))

    def _range(self, name: str) -> Any:
        """A range of the profiler; of a kind that dispatch modes do not take for an op, as ``record_function`` is."""
        import torch

        self._names.add(name)
        return torch._C._profiler._RecordFunctionFast(name)  # noqa: SLF001


class LogMeter(Meter):
    """Reads the log of PyTorch's CPU allocator, which takes the place of this process' standard error meanwhile.

    Python's garbage collector is kept out, and so is what gloo's threads hold for a moment beyond a collective's end,
    which comes out differently each time: it is waited for.
    """

    _MARK = "memprof: "
    _LINE = re.compile(rf"total alloc (\d+) bytes|{_MARK}(.*)")

    def __init__(self) -> None:
        super().__init__()
        self._stage = ""

    @contextmanager
    def running(self) -> Iterator[None]:
        from memprof.measure.gloo import patient

        with tempfile.TemporaryFile(prefix="memprof-") as log, ExitStack() as stack:
            stack.enter_context(_no_garbage_collection())
            stack.enter_context(_standard_error_to(log.fileno()))
            stack.enter_context(_reported())
            stack.enter_context(patient())
            self._mark("begin")
            yield
            stack.close()
            log.seek(0)
            self._read(log.read().decode(errors="replace"))

    def built(self, tensors: Iterable[Any]) -> None:  # noqa: ARG002 - the log has them all
        gc.collect()
        self._mark("load")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._stage = name
        self._mark(name)
        yield
        self._mark("")

    def phase(self, phase: Phase) -> None:
        self._mark(f"{self._stage} {phase.value}")

    def _mark(self, names: str) -> None:
        os.write(sys.stderr.fileno(), f"{self._MARK}{names}\n".encode())

    def _read(self, log: str) -> None:
        before = total = 0
        names: list[str] = []
        for number, mark in self._LINE.findall(log):
            if number:
                total = int(number)
            elif mark == "begin":
                before = total
            else:
                names = mark.split()
            for name in names:
                self._reach(name, total - before)


def storage_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the storages below some tensors, each counted once; of a distributed tensor, this rank's part."""
    plain = (part for tensor in tensors for part in _plain(tensor))
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in plain}  # noqa: SLF001
    return sum(storages.values())


def _plain(tensor: Any) -> Iterator[Any]:
    """The tensors that hold a tensor's elements: itself, or what a wrapper such as a distributed one is made of."""
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        if isinstance(part := getattr(tensor, name), torch.Tensor):
            yield from _plain(part)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _profiled() -> Iterator[Any]:
    from torch.profiler import ProfilerActivity, profile

    with (
        _no_garbage_collection(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record,
    ):
        yield record


def _allocations(record: Any) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Bytes asked for (positive) or given back (negative), and the ranges around it, outermost first; in order."""
    found: list[tuple[int, int, tuple[str, ...]]] = []
    waiting: list[tuple[Any, tuple[str, ...]]] = [
        (event, ()) for event in record.profiler.kineto_results.experimental_event_tree()
    ]
    while waiting:
        event, path = waiting.pop()
        if event.name == "[memory]":
            found.append((event.start_time_ns, event.extra_fields.alloc_size, path))
        waiting += [(child, (*path, event.name)) for child in event.children]
    found.sort(key=lambda item: item[0])
    return ((num_bytes, path) for _, num_bytes, path in found)


@contextmanager
def _standard_error_to(file: int) -> Iterator[None]:
    error = sys.stderr.fileno()
    kept = os.dup(error)
    os.dup2(file, error)
    try:
        yield
    finally:
        os.dup2(kept, error)
        os.close(kept)


@contextmanager
def _reported() -> Iterator[None]:
    """While open, the allocator writes its log.

    Raises:
        MeasurementError: this build of PyTorch has no such flag.
    """
    import torch

    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
        flag = ctypes.c_bool.in_dll(library, "FLAGS_caffe2_report_cpu_memory_usage")
    except (OSError, ValueError):
        raise MeasurementError(
            "the CPU allocator of this PyTorch writes no log, from which ranks over gloo are measured", "use Linux"
        ) from None
    flag.value = True
    try:
        yield
    finally:
        flag.value = False

"""The device that is played: fake tensors on the CPU, with the kernels of whatever the semantics describe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

from memprof.semantics.device import Semantics
from memprof.trace.conversion import parameters_get_new_data
from memprof.trace.disguise import code_tables_apart, fakes_look_real, quiet_libraries
from memprof.trace.in_place import math_attention_known
from memprof.trace.recorder import Kernel, Recorder
from memprof.trace.rng_state import rng_states_seen


class FakeDevice(NamedTuple):
    """What a device is to a recording.

    Attributes:
        fakes: where tensors are fake.
        kernels: what makes ops take the device's way, around a recorder.
        kernel: what a kernel allocates beside its outputs.
    """

    fakes: AbstractContextManager[Any]
    kernels: Callable[[Recorder], AbstractContextManager[Any]]
    kernel: Kernel | None


def fake_device(semantics: Semantics) -> FakeDevice:
    """The device that the semantics describe."""
    from memprof.trace.host_reads import fake_tensors

    fakes = ExitStack()
    fakes.enter_context(quiet_libraries())
    fakes.enter_context(fakes_look_real())
    fakes.enter_context(parameters_get_new_data())
    fakes.enter_context(code_tables_apart())
    fakes.enter_context(math_attention_known())
    fakes.enter_context(fake_tensors())

    if semantics.kind == "cpu":
        from memprof.trace.cpu_kernels import CpuKernels

        return FakeDevice(fakes, _cpu_ways, CpuKernels(semantics))
    from memprof.trace.cuda_device import CudaDevice

    card = CudaDevice(semantics)
    return FakeDevice(fakes, card.ways, card.kernel)


@contextmanager
def _cpu_ways(recorder: Recorder) -> Iterator[None]:
    from memprof.trace.cpu_kernels import library_kernels

    with rng_states_seen(recorder), library_kernels():
        yield

"""What a CUDA device tells a recorder."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from memprof.model.timeline import Component
from memprof.semantics.device import Semantics
from memprof.trace.attribution import Attribution
from memprof.trace.cuda_device import CudaDevice
from memprof.trace.recorder import Recorder


def workspaces(sem: Semantics) -> list[int]:
    device = CudaDevice(sem)
    recorder = Recorder(Attribution(), device.kernel, host_is_free=True)
    with FakeTensorMode(), recorder, device.ways(recorder):
        layer = torch.nn.Linear(8, 8, device="cpu")
        for _ in range(2):
            layer(torch.empty(4, 8, device="cpu")).sum().backward()
    recorder.close()
    return [life.num_bytes for life in recorder.lives if life.purpose is Component.WORKSPACE]


@pytest.mark.parametrize(
    ("torch_version", "expected"),
    [((2, 13), [33_554_432] * 2), ((2, 9), [33_554_432, 1_048_576, 33_554_432]), ((2, 6), [33_554_432] * 2)],
)
def test_each_thread_has_one_workspace_for_good(torch_version: tuple[int, int], expected: list[int]) -> None:
    assert workspaces(Semantics(kind="cuda", architecture="sm_90", torch=torch_version)) == expected


def test_scratch_lives_while_its_kernel_runs() -> None:
    device = CudaDevice(Semantics(kind="cuda", architecture="sm_80", num_multiprocessors=108))
    recorder = Recorder(Attribution(), device.kernel, host_is_free=True)
    with FakeTensorMode(), recorder, device.ways(recorder):
        grad = torch.empty(10, 200, 512, device="cpu")
        grad.sum((0, 1))
    recorder.close()
    sizes = [recorder.lives[event].num_bytes if event >= 0 else -recorder.lives[~event].num_bytes
             for event in recorder.events]  # fmt: skip
    assert sizes[1:] == [2048, 8_388_608, 16, -16, -8_388_608, -2048]

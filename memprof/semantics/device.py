"""The `Semantics` value: whose kernels run, and of which versions. Passed explicitly to every rule that needs it."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from memprof.errors import ConfigError
from memprof.model.device import Device
from memprof.model.scenario import Software

NEWEST_TORCH = (2, 13)
NEWEST_TRANSFORMERS = (5, 23)

# CUDA and cuDNN that the default wheel of each torch release asks for, newest first.
# Source: Requires-Dist of torch X.Y.Z on the package index (nvidia-cudnn-cu*, cuda-toolkit / nvidia-cuda-runtime-cu12).
# cuDNN in the form of cudnnGetVersion(): 9.20.0 is 92000.
_WHEELS: tuple[tuple[tuple[int, int], tuple[int, int], int], ...] = (
    ((2, 13), (13, 0), 92000),
    ((2, 12), (13, 0), 92000),
    ((2, 11), (13, 0), 91900),
    ((2, 10), (12, 8), 91002),
    ((2, 9), (12, 8), 91002),
    ((2, 8), (12, 8), 91002),
    ((2, 7), (12, 6), 90501),
    ((2, 6), (12, 4), 90100),
)


# Multiprocessors of the usual card of each architecture, for devices that do not say.
# Source: NVIDIA's architecture white papers (V100, T4, A100, RTX 3090, Jetson Orin, RTX 4090, H100 SXM, B200, B300,
# RTX 5090, GB10, in this order).
_MULTIPROCESSORS = {
    "sm_70": 80, "sm_75": 40, "sm_80": 108, "sm_86": 82, "sm_87": 16, "sm_89": 128,
    "sm_90": 132, "sm_100": 148, "sm_103": 160, "sm_120": 170, "sm_121": 48,
}  # fmt: skip


class Semantics(msgspec.Struct, frozen=True, kw_only=True):
    """What decides how an op behaves on a device.

    Attributes:
        kind: whose rules hold; ROCm follows CUDA's, with a warning.
        architecture: ``sm_90``, ``gfx942`` or ``cpu``.
        torch: (major, minor).
        transformers: (major, minor).
        cuda: toolkit that torch was built with, (major, minor); None on the CPU.
        cudnn: ``cudnnGetVersion()`` of the cuDNN that comes with the default wheel; None on the CPU and on ROCm.
        num_multiprocessors: of the card; reductions are cut into more blocks on more of them.
        num_threads: ``torch.get_num_threads()`` of a CPU run; CPU kernels keep scratch for each thread.
        warnings: what makes these rules less certain for this device or version.
    """

    kind: Literal["cuda", "cpu"]
    architecture: str
    torch: tuple[int, int] = NEWEST_TORCH
    transformers: tuple[int, int] = NEWEST_TRANSFORMERS
    cuda: tuple[int, int] | None = None
    cudnn: int | None = None
    num_multiprocessors: int = 132
    num_threads: int = 1
    warnings: tuple[str, ...] = ()

    @property
    def capability(self) -> tuple[int, int]:
        """CUDA compute capability, (9, 0) for ``sm_90``; Ampere's, (8, 0), stands in for AMD; (0, 0) on the CPU."""
        match = re.fullmatch(r"sm_(\d+)(\d)[af]?", self.architecture)
        if match is None:
            return (8, 0) if self.architecture.startswith("gfx") else (0, 0)
        return int(match.group(1)), int(match.group(2))


def semantics_for(device: Device, software: Software) -> Semantics:
    """The rules that hold on ``device`` with ``software``; versions left open are the newest that memprof knows.

    Raises:
        ConfigError: a version that does not start with two numbers.
    """
    torch = _version("software.torch", software.torch, NEWEST_TORCH)
    transformers = _version("software.transformers", software.transformers, NEWEST_TRANSFORMERS)
    if device.kind == "cpu":
        return Semantics(kind="cpu", architecture="cpu", torch=torch, transformers=transformers)
    cuda, cudnn = _wheel(torch)
    warnings = []
    if not any(torch == release for release, _, _ in _WHEELS):
        warnings.append(
            f"memprof knows torch {_known()}; for torch {torch[0]}.{torch[1]} it uses the rules of the nearest one"
        )
    if device.kind == "rocm":
        warnings.append(
            "attention and kernel temporaries on ROCm are taken to be those of an A100 and are not verified"
        )
    return Semantics(
        kind="cuda",
        architecture=device.architecture,
        torch=torch,
        transformers=transformers,
        cuda=cuda,
        cudnn=None if device.kind == "rocm" else cudnn,
        num_multiprocessors=device.num_multiprocessors or _MULTIPROCESSORS.get(device.architecture, 132),
        warnings=tuple(warnings),
    )


def _version(field: str, text: str | None, newest: tuple[int, int]) -> tuple[int, int]:
    if text is None:
        return newest
    match = re.match(r"(\d+)\.(\d+)", text)
    if match is None:
        raise ConfigError(f"{field}: {text!r} is not a version", "write it as 2.13 or 2.13.0")
    return int(match.group(1)), int(match.group(2))


def _wheel(torch: tuple[int, int]) -> tuple[tuple[int, int], int]:
    for release, cuda, cudnn in _WHEELS:
        if torch >= release:
            return cuda, cudnn
    return _WHEELS[-1][1:]


def _known() -> str:
    oldest, newest = _WHEELS[-1][0], _WHEELS[0][0]
    return f"{oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}"

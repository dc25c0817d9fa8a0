"""What machine a run takes place on, for its record."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from memprof.catalog.device_catalog import device as find_device
from memprof.errors import ConfigError
from memprof.model.device import Device
from memprof.model.evidence import Environment

_DISTRIBUTIONS = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "deepspeed")


def environment(
    device: str,
    *,
    limit_bytes: int | None = None,
    num_threads: int | None = None,
    world_size: int = 1,
    process_group: str | None = None,
) -> Environment:
    """The record of this machine; of the current CUDA device unless ``device`` is ``cpu``."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    versions |= {name: found for name in _DISTRIBUTIONS if (found := _version(name)) is not None}
    gpu, total_bytes = None, None
    if device != "cpu":
        import torch

        gpu = torch.cuda.get_device_name()
        _, total_bytes = torch.cuda.mem_get_info()
        versions |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version()), "driver": _driver()}
    return Environment(
        device=device,
        gpu=gpu,
        total_bytes=total_bytes,
        limit_bytes=limit_bytes,
        num_threads=num_threads,
        world_size=world_size,
        process_group=process_group,
        platform=platform.platform(),
        versions=versions,
    )


def has_cuda() -> bool:
    """Whether PyTorch is there and sees a CUDA device."""
    try:
        import torch
    except ImportError:
        raise ConfigError(
            "a real run needs PyTorch, which is not installed", "pip install 'memprof-gpu[torch]'"
        ) from None
    return bool(torch.cuda.is_available())


def card() -> Device:
    """The current CUDA device as the catalog knows it.

    Raises:
        DeviceError: it does not.
    """
    import torch

    return find_device(torch.cuda.get_device_name())


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # noqa: BLE001 - without the library, or where it finds no driver, it is not known
        return None

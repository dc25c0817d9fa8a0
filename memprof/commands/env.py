"""``memprof env``: what a bug report needs to say about the machine; imports none of what it reports on."""

from __future__ import annotations

import os
from typing import Any

import click

from memprof.commands.output import emit

_DISTRIBUTIONS = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "deepspeed", "nvidia-ml-py")
# What changes which memory PyTorch takes: https://docs.pytorch.org/docs/stable/cuda_environment_variables.html,
# https://docs.nvidia.com/cuda/cublas/ and aten/src/ATen/native/transformers/cuda/sdp_utils.cpp.
_VARIABLES = (
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_MODULE_LOADING",
    "CUDA_VISIBLE_DEVICES",
    "TORCH_CUDNN_SDPA_DEPRIORITIZED",
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write the same as JSON.")
def command(as_json: bool) -> None:
    """Print versions, CUDA devices and the settings that change how much memory PyTorch takes."""
    found = environment()
    if as_json:
        from memprof.views import json

        emit(json.render(found))
    else:
        emit(_text(found))


def environment() -> dict[str, Any]:
    """Versions, devices and the variables that are set; None where not installed or, with the reason, not looked at."""
    import platform

    from memprof import __version__

    devices, why_no_devices = _cuda_devices()
    return {
        "memprof": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _DISTRIBUTIONS},
        "cuda_devices": devices,
        "cuda_devices_not_checked": why_no_devices,
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _cuda_devices() -> tuple[list[dict[str, Any]] | None, str | None]:
    """What NVML says, or why it was not asked; ``total_bytes`` is NVML's, a little above ``cudaMemGetInfo``'s."""
    try:
        import pynvml
    except ImportError:
        return None, "nvidia-ml-py is not installed (pip install 'memprof-gpu[gpu]')"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        found = [
            {
                "name": pynvml.nvmlDeviceGetName(handle),
                "driver": driver,
                "total_bytes": memory.total,
                "used_bytes": memory.used,
            }
            for handle in handles
            for memory in [pynvml.nvmlDeviceGetMemoryInfo(handle)]
        ]
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"
    finally:
        pynvml.nvmlShutdown()
    return found, None


def _text(found: dict[str, Any]) -> str:
    from memprof.units import gib

    rows = [(name, found[name]) for name in ("memprof", "python", "platform")]
    rows += [(name, version or "not installed") for name, version in found["packages"].items()]
    if found["cuda_devices"] is None:
        rows.append(("CUDA devices", f"not checked: {found['cuda_devices_not_checked']}"))
    else:
        rows += [
            (f"CUDA device {index}", f"{card['name']}, {gib(card['total_bytes'])} by NVML, driver {card['driver']}")
            for index, card in enumerate(found["cuda_devices"])
        ] or [("CUDA devices", "none")]
    rows += found["variables"].items()
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name:{width}}  {value}\n" for name, value in rows)

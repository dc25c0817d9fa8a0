"""Published runs of convolutional networks beside their traces, with the torchvision that the models come from.

    python -m tests.support.public_convolutional RUNS.jsonl -o public_traced_convolutional.jsonl

``RUNS.jsonl`` has one published run a line: ``id``, ``model``, ``optimizer``, ``batch_size``, ``gpu``,
``ground_bytes`` as NVML read them, and the file that says so. Excluded are cuDNN's workspaces, of which nothing is
known; the process's own share of ``ground_bytes`` (``OUTSIDE_BYTES``) is taken off.

Source of the setting (images of 86 x 86, ten classes, SGD without momentum):
https://github.com/Stone-ResearchLife/xMem.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from memprof import api
from memprof.model.scenario import Batch, Loop, Optimizer, Scenario, Software
from memprof.units import MiB

OUTSIDE_BYTES = {"rtx-3060-12gb": 18 * MiB, "rtx-4060-8gb": 14 * MiB}
"""What NVML counts beyond the allocator's segments; the same for the transformers of that record."""
DEVICES = {"NVIDIA GeForce RTX 3060": "rtx-3060-12gb", "NVIDIA GeForce RTX 4060": "rtx-4060-8gb"}
MODELS = {
    "ConvNeXtBase": "convnext_base", "ConvNeXtTiny": "convnext_tiny", "MnasNet": "mnasnet1_0",
    "MobeNetV3Large": "mobilenet_v3_large", "MobeNetV3Small": "mobilenet_v3_small", "MobileNetV2": "mobilenet_v2",
    "RegNetX400MF": "regnet_x_400mf", "RegNetY400MF": "regnet_y_400mf", "ResNet101": "resnet101", "VGG16": "vgg16",
}  # fmt: skip
_IMAGE, _CLASSES = 86, 10


def __getattr__(name: str) -> Callable[[int], Any]:
    """A factory for each architecture: ``tests.support.public_convolutional:resnet101``."""
    if name not in MODELS.values():
        raise AttributeError(name)

    def make(batch_size: int) -> Any:
        import torch

        model = getattr(_torchvision().models, name)(weights=None)
        images = torch.randn(batch_size, 3, _IMAGE, _IMAGE)
        labels = torch.randint(0, _CLASSES, (batch_size,))
        return model, {"x": images}, lambda logits, _: torch.nn.functional.cross_entropy(logits, labels)

    return make


def _torchvision() -> Any:
    """The package without its compiled operators, which none of these models calls."""
    import torch

    if "torchvision" not in sys.modules:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        sys.modules[__name__].__dict__["_library"] = library  # its operators go when it does
    import torchvision  # type: ignore[import-not-found]

    return torchvision


def row(run: dict[str, Any]) -> dict[str, Any]:
    """Reserved memory of a run, measured and traced."""
    device = DEVICES[run["gpu"]]
    scenario = Scenario(
        model=f"{__spec__.name}:{MODELS[run['model']]}",
        task="custom",
        batch=Batch(micro_batch_size=run["batch_size"]),
        precision="fp32",
        optimizer=Optimizer(name=run["optimizer"].lower()),
        loop=Loop(zero_grad="start", keep_outputs=True),
        device=device,
        software=Software(torch="2.6"),
    )
    return {
        "run": run["id"],
        "model": MODELS[run["model"]],
        "micro_batch_size": run["batch_size"],
        "optimizer": scenario.optimizer.name,
        "device": device,
        "measured_bytes": run["ground_bytes"] - OUTSIDE_BYTES[device],
        "traced_bytes": api.estimate(scenario, engine="trace").peak.reserved_bytes,
        "source": "https://github.com/{source_repo}/blob/{source_commit}/{source_path}".format(**run),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows, errors = [], []
    for line in arguments.runs.read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        if run.get("model") in MODELS:
            rows.append(row(run))
            errors.append(rows[-1]["traced_bytes"] / rows[-1]["measured_bytes"] - 1)
            sys.stderr.write(f"{rows[-1]} {errors[-1]:+.2%}\n")
    sizes = sorted(map(abs, errors))
    head = {
        "what": "peak reserved bytes of published training runs of convolutional networks: measured, and traced",
        "software": {name: version(name) for name in ("torch", "torchvision")},
        "summary": {
            "num_runs": len(errors),
            "median": round(statistics.median(sizes), 6),
            "p90": round(sizes[int(0.9 * len(sizes))], 6),
            "worst": round(sizes[-1], 6),
            "num_more_than_1_percent_under": sum(each < -0.01 for each in errors),
        },
    }
    arguments.output.write_text("".join(f"{json.dumps(line)}\n" for line in (head, *rows)))


if __name__ == "__main__":
    main()

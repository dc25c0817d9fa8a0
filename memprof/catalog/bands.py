"""How far recorded runs were from their estimates, by rung, device architecture and kind of scenario.

``bands.json`` is made of the evidence by ``python -m memprof.verify.bands``; a test holds it current.
"""

from __future__ import annotations

import os
from functools import cache

import msgspec

from memprof.model.result import Bounds
from memprof.model.scenario import Scenario

FEWEST_RUNS = 5
"""Of fewer runs no band is made: their spread says too little of the next one."""
_FILE = os.path.join(os.path.dirname(__file__), "bands.json")


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """Measured over estimated bytes, the lowest and the highest of some recorded runs.

    Attributes:
        metric: ``allocated`` or ``reserved``.
        num_families: of runs that are near relatives.
    """

    rung: str
    architecture: str
    kind: str
    metric: str
    num_runs: int
    num_families: int
    low: float
    high: float

    def around(self, num_bytes: int) -> tuple[int, int]:
        """The lowest and the highest bytes that an estimate stands for."""
        return round(num_bytes * self.low), round(num_bytes * self.high)


def kind_of(scenario: Scenario) -> str:
    """What a band is for: ``training, fp32`` and whatever changes which memory is taken, as far as it is used."""
    training = scenario.mode == "train"
    strategy = scenario.parallelism.strategy
    of_torchao = scenario.optimizer.name.startswith("torchao-")
    named = {
        "training" if training else "inference": True,
        scenario.precision: True,
        "8-bit optimizer": training and scenario.optimizer.name.endswith("-8bit") and not of_torchao,
        "torchao optimizer": training and of_torchao,
        "checkpointing": training and scenario.checkpointing != "none",
        "adapter": scenario.adapter is not None,
        f"{scenario.quantization} weights": scenario.quantization is not None,
        strategy: strategy != "none",
        "model parallelism": max(_degrees(scenario)) > 1,
        "offload": bool(scenario.offload),
        "compiled": scenario.compile is not None,
        "eager attention": scenario.attention in ("eager", "sdpa-math"),
        "generation": not training and scenario.batch.new_tokens is not None,
        "images": scenario.task == "image-classification",
        "expandable segments": scenario.allocator.expandable_segments,
    }
    return ", ".join(name for name, is_so in named.items() if is_so)


def find(rung: str, architecture: str, kind: str) -> dict[str, Band]:
    """The bands by metric; empty where too few such runs are recorded."""
    wanted = rung, architecture, kind
    return {band.metric: band for band in _bands() if (band.rung, band.architecture, band.kind) == wanted}


def bounds(bands: dict[str, Band], allocated_bytes: int, reserved_bytes: int | None) -> Bounds:
    """What the bands make of an estimate."""
    sizes = {"allocated": allocated_bytes, "reserved": reserved_bytes}
    ends: dict[str, int] = {}
    for metric, num_bytes in sizes.items():
        if metric in bands and num_bytes is not None:
            ends[f"{metric}_low_bytes"], ends[f"{metric}_high_bytes"] = bands[metric].around(num_bytes)
    return Bounds(**ends)


def basis(bands: dict[str, Band], architecture: str, kind: str) -> str:
    """What the record says of such estimates."""
    if not bands:
        return f"no band: fewer than {FEWEST_RUNS} runs of this kind are recorded ({kind}; {architecture})"
    told = [
        f"{band.num_runs} recorded runs of {band.num_families} model families {band.metric} {_percent(band.low)} to"
        f" {_percent(band.high)} against the estimate"
        for band in bands.values()
    ]
    return f"{' and '.join(told)} ({kind}; {architecture})"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.2f} %"


def _degrees(scenario: Scenario) -> tuple[int, ...]:
    p = scenario.parallelism
    return p.tensor, p.pipeline, p.context, p.expert


@cache
def _bands() -> list[Band]:
    with open(_FILE, "rb") as file:
        return msgspec.json.decode(file.read(), type=list[Band])

"""Bands for estimates, made of the committed summary: ``python -m memprof.verify.bands SUMMARY > bands.json``.

A band spans what runs of its kind showed, from the run that took the least of its estimate to the one that took the
most; it is no confidence interval. Only runs whose source states the whole scenario count.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from math import ceil, floor
from pathlib import Path

import msgspec

from memprof.catalog.bands import FEWEST_RUNS, Band
from memprof.model.accuracy import Accuracy
from memprof.verify import summary

RUNGS = {"analytic": "analytic", "trace": "traced"}
"""What an estimate of each engine calls its rung."""
_METRICS = ("allocated", "reserved")
_STEPS = 10_000
"""Ends of bands are rounded outwards to a hundredth of a percent."""


def bands(accuracy: Accuracy) -> list[Band]:
    """One band for each rung, architecture, kind and metric that enough runs are recorded of."""
    ratios: dict[tuple[str, str, str, str], dict[str, float]] = defaultdict(dict)
    for score in accuracy.scores:
        run = accuracy.runs[score.run]
        if score.part == "peak" and score.metric in _METRICS and score.predicted_bytes and run.is_stated:
            key = RUNGS[score.engine], run.architecture, run.kind, score.metric
            ratios[key][score.run] = score.measured_bytes / score.predicted_bytes
    found = []
    for (rung, architecture, kind, metric), by_run in sorted(ratios.items()):
        if len(by_run) >= FEWEST_RUNS:
            band = Band(
                rung=rung,
                architecture=architecture,
                kind=kind,
                metric=metric,
                num_runs=len(by_run),
                num_families=len({accuracy.runs[run].family for run in by_run}),
                low=floor(min(by_run.values()) * _STEPS) / _STEPS,
                high=ceil(max(by_run.values()) * _STEPS) / _STEPS,
            )
            found.append(band)
    return found


def encode(found: list[Band]) -> bytes:
    """The file in the package."""
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(encode(bands(summary.read(Path(sys.argv[1])))))

"""The whole grid of real and traced steps, as a record: ``python -m tests.support.trace_grid -o FILE``."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from memprof.errors import ModelError
from tests.support.real_step import Cell, grid, real_step, traced_peaks

Row = dict[str, Any]
_VERSIONS = ("torch", "transformers", "peft", "bitsandbytes")


def row(cell: Cell) -> Row:
    """Peaks of both sides, or what the library itself says where it cannot run such a step."""
    out: Row = {"cell": str(cell)}
    try:
        out["real_bytes"] = max(real_step(cell).peaks().values())
    except (ModelError, AttributeError) as refusal:  # the latter is how PEFT and Swin's embeddings part
        out["refused"] = str(refusal)
    try:
        out["traced_bytes"] = max(traced_peaks(cell).values())
    except ModelError as refusal:
        out["traced_refused"] = str(refusal)
    return out


def error(found: Row) -> float | None:
    """Relative; None where both sides refuse; infinite where only one does."""
    if "refused" in found or "traced_refused" in found:
        return None if "refused" in found and "traced_refused" in found else float("inf")
    return abs(found["traced_bytes"] / found["real_bytes"] - 1)


def summary(rows: Iterable[Row]) -> dict[str, Any]:
    """Quantiles of the relative error over all cells that run at all."""
    errors = [error(found) for found in rows]
    ran = sorted(each for each in errors if each is not None)
    return {
        "num_cells": len(errors),
        "num_refused_by_both": len(errors) - len(ran),
        "median": statistics.median(ran),
        "p90": ran[int(0.9 * len(ran))],
        "worst": ran[-1],
        "num_exact": ran.count(0.0),
    }


def write(rows: list[Row], output: Path) -> None:
    """The record: one line a cell."""
    from importlib.metadata import version

    import torch

    record = {
        "what": "highest requested bytes of two steps on the CPU: PyTorch's profiler, and the trace engine",
        "software": {name: version(name) for name in _VERSIONS},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "summary": summary(rows),
    }
    head = json.dumps(record, indent=1).removesuffix("\n}")
    lines = ",\n  ".join(json.dumps(found) for found in rows)
    output.write_text(f'{head},\n "rows": [\n  {lines}\n ]\n}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("-j", "--jobs", type=int, default=2)
    arguments = parser.parse_args()
    cells = list(grid())
    rows = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for found in pool.map(row, cells, chunksize=4):
            rows.append(found)
            sys.stderr.write(f"{len(rows)} of {len(cells)} {found}\n")
    write(rows, arguments.output)


if __name__ == "__main__":
    main()

"""Published transformer runs beside their traces: ``python -m tests.support.public_traced -o public_traced.jsonl``."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from memprof import api, engines
from memprof.allocator.native import CachingAllocator
from memprof.catalog.device_catalog import device as find_device
from memprof.model.evidence import Evidence
from memprof.model.timeline import Action, Timeline
from memprof.semantics.device import semantics_for
from memprof.verify import store

FOLDER = Path(__file__).parents[2] / "reports" / "evidence" / "public"
FULL_BATCH = 13
"""From this many sequences on, some sequence of a batch is as long as the longest allowed."""

Row = dict[str, Any]


def published() -> list[Evidence]:
    """Training runs in float32 whose peaks were read from NVML, by name."""
    return sorted((run for run in store.read_all(FOLDER) if run.name.startswith("xmem-")), key=lambda run: run.name)


def has_full_batch(run: Evidence) -> bool:
    """Whether the length of its longest batch is known; the same run with a smaller one differs by up to 4 %."""
    return run.scenario.batch.micro_batch_size >= FULL_BATCH


def row(run: Evidence) -> Row:
    """Reserved memory of a run, measured and traced."""
    scenario = run.scenario
    return {
        "run": run.name,
        "model": scenario.model,
        "micro_batch_size": scenario.batch.micro_batch_size,
        "optimizer": scenario.optimizer.name,
        "device": scenario.device,
        "measured_bytes": run.measured.peak_reserved_bytes,
        "traced_bytes": api.estimate(scenario, engine="trace").peak.reserved_bytes,
    }


def timeline_of(run: Evidence) -> Timeline:
    """The traced steps of a run."""
    semantics = semantics_for(find_device(run.scenario.device), run.scenario.software)
    return engines.answer(run.scenario, semantics, "trace").timeline


def reserved_with_a_shorter_batch(run: Evidence, timeline: Timeline, length: int, num_heads: int) -> int:
    """Peak reserved bytes where the third of four batches is ``length`` tokens long; float32, eager attention.

    Blocks of a token, and those of a pair of tokens, are told by their size.
    """
    batch, whole = run.scenario.batch.micro_batch_size, run.scenario.batch.sequence_length
    assert whole is not None

    def size(num_bytes: int, tokens: int) -> int:
        if num_bytes == 4 * batch * num_heads * whole * whole:
            return num_bytes // whole**2 * tokens**2
        return num_bytes // whole * tokens if num_bytes % (4 * batch * whole) == 0 else num_bytes

    load, first, step = (
        list(msgspec.structs.replace(timeline, schedule=[stage]).unroll()) for stage in timeline.schedule
    )
    allocator = CachingAllocator()
    live = {}
    for events, tokens in ((load, whole), (first, whole), (step, whole), (step, length), (step, whole)):
        for event in events:
            if event.action == Action.ALLOC:
                live[event.block] = allocator.malloc(size(event.num_bytes, tokens), event.stream)
            else:
                allocator.free(live.pop(event.block))
    return allocator.stats.reserved_bytes[0].peak


def error(found: Row) -> float:
    """Traced over measured, less one."""
    return float(found["traced_bytes"] / found["measured_bytes"] - 1)


def summary(rows: Iterable[Row]) -> dict[str, Any]:
    """Quantiles of the relative error: of full batches, and of the smaller ones."""
    groups: dict[str, list[float]] = {"full_batches": [], "small_batches": []}
    for found in rows:
        group = "full_batches" if found["micro_batch_size"] >= FULL_BATCH else "small_batches"
        groups[group].append(error(found))
    return {name: _quantiles(errors) for name, errors in groups.items()}


def _quantiles(errors: list[float]) -> dict[str, float]:
    sizes = sorted(map(abs, errors))
    return {
        "num_runs": len(errors),
        "median": round(statistics.median(sizes), 6),
        "p90": round(sizes[int(0.9 * len(sizes))], 6),
        "worst": round(sizes[-1], 6),
        "num_more_than_1_percent_under": sum(each < -0.01 for each in errors),
    }


def write(rows: list[Row], output: Path) -> None:
    """The record: a line of what it is, then one line a run."""
    from importlib.metadata import version

    head = {
        "what": "peak reserved bytes of published training runs in float32: measured, and of the trace engine",
        "software": {name: version(name) for name in ("torch", "transformers")},
        "summary": summary(rows),
    }
    output.write_text("".join(f"{json.dumps(line)}\n" for line in (head, *rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for run in published():
        rows.append(row(run))
        sys.stderr.write(f"{rows[-1]} {error(rows[-1]):+.3%}\n")
    write(rows, arguments.output)


if __name__ == "__main__":
    main()

"""Whether a machine has the memory that runs take of the host, before anything is run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from memprof import api
from memprof.errors import MeasurementError, MemprofError
from memprof.model.scenario import Scenario
from memprof.units import MiB, format_bytes

LIBRARIES_BYTES = 700 * MiB
"""Resident in a process that has imported torch and transformers and run a small step: 640 MiB with torch 2.13 on a
CPU, as runs in reports/evidence/cpu show (``host_rss_bytes`` less the peak)."""
_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


def refuse_beyond(scenarios: Iterable[tuple[str, Scenario]], available_bytes: int | None) -> None:
    """One error for the first run on the CPU that would not fit; what cannot be estimated at once is let through.

    Raises:
        MeasurementError: says which run, how much it needs and how much there is.
    """
    if available_bytes is None:
        return
    for name, scenario in scenarios:
        if scenario.device != "cpu":
            continue
        try:
            needed_bytes = api.allocated(scenario) + LIBRARIES_BYTES
        except MemprofError:
            continue
        if needed_bytes > available_bytes:
            raise MeasurementError(
                f"{name} needs about {format_bytes(needed_bytes)} of host memory,"
                f" and {format_bytes(available_bytes)} is available",
                "choose smaller scenarios, or a machine with more",
            )


def available_host_bytes() -> int | None:
    """What the system could give to a new process; None where it does not say. Linux, with its control groups.

    Source: https://docs.kernel.org/filesystems/proc.html (MemAvailable),
    https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max).
    """
    found = [_of_system(), *map(_of_group, _GROUPS, _USED)]
    return min((size for size in found if size is not None), default=None)


def _of_system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _of_group(limit: str, used: str) -> int | None:
    try:
        return int(Path(limit).read_text()) - int(Path(used).read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None

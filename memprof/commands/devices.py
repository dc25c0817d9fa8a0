"""``memprof devices``: the cards that memprof knows, and where its figures are from."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from memprof.commands.output import emit

if TYPE_CHECKING:
    from memprof.model.device import Device


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write every field of each device as JSON.")
def command(as_json: bool) -> None:
    """List the devices of the catalog.

    Memory is what the driver reports as total; a ~ marks the data sheet's figure, where no report was found. Bandwidth
    and TFLOP/s (bfloat16, dense) are the maker's peaks. A wide terminal and --json also show the sources.
    """
    from memprof.catalog.device_catalog import devices

    known = devices()
    if as_json:
        from memprof.views import json

        emit(json.render(known))
    else:
        emit(_table(known))


_WIDE_ENOUGH_FOR_SOURCES = 150


def _table(known: Sequence[Device]) -> str:
    from memprof.views import table
    from memprof.views.terminal import terminal_of

    terminal = terminal_of(sys.stdout, os.environ)
    columns = {
        "device": [device.name for device in known],
        "title": [device.title for device in known],
        "memory": [_memory(device) for device in known],
        "GB/s": [_scaled(device.memory_bandwidth_bytes_per_s, 1e9) for device in known],
        "TFLOP/s": [_scaled(device.peak_flops.get("bfloat16"), 1e12) for device in known],
    }
    if terminal.width >= _WIDE_ENOUGH_FOR_SOURCES:
        columns["source of memory, else data sheet"] = [device.total_source or device.source for device in known]
    return table.render(list(columns), zip(*columns.values(), strict=True), terminal, numbers=(2, 3, 4))


def _memory(device: Device) -> str:
    from memprof.units import gib

    if device.total_bytes is None:
        return ""
    return f"{'~' if device.nominal else ''}{gib(device.total_bytes)}"


def _scaled(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:,.0f}"

"""``memprof snapshot`` for people: the answer first, then who held the memory, then what would have fitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from memprof.model.snapshot import DeviceReport, FreeBlocks, Growth, Holder, OutOfMemory, SnapshotReport
from memprof.units import format_bytes, gib
from memprof.views import spark
from memprof.views.phrases import spelled
from memprof.views.terminal import Terminal

if TYPE_CHECKING:
    from rich.table import Table

_MOMENTS = ("at the peak", "at the end")
_SITE = ("component", "op", "module", "source")


def render(report: SnapshotReport, terminal: Terminal, top: int = 10) -> str:
    """The report as text; each table shows its ``top`` largest rows.

    Args:
        top: how many sites are listed.
    """
    from io import StringIO

    from rich.console import Console

    console = Console(
        file=StringIO(),
        width=terminal.width,
        color_system="standard" if terminal.color else None,
        force_terminal=terminal.color,
        highlight=False,
        markup=False,
        emoji=False,
    )
    if report.compared_with is not None:
        console.print(growth_answer(report))
        console.print(_growth_table(report.growth[:top]), end="\n\n")
    for device in report.devices:
        for part in _device(report, device, terminal, top):
            console.print(part)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def answer(report: SnapshotReport, device: DeviceReport) -> str:
    """``cuda:0: peak 51.30 GiB allocated, 56.91 GiB reserved: optimizer states 25.38 GiB, ...``."""
    largest = [(name, size) for name, size in device.at_peak_bytes.items() if name != "rounding"][:3]
    held = ", ".join(f"{spelled(name)} {gib(size)}" for name, size in largest)
    recorded = report.recorded[str(device.device)]
    if device.oom is not None:
        oom = device.oom
        return (
            f"cuda:{device.device}: out of memory, {gib(oom.requested_bytes)} asked for with "
            f"{gib(oom.allocated_bytes)} allocated and {gib(oom.reserved_bytes)} reserved: {_why(oom)}"
        )
    return (
        f"cuda:{device.device}: peak {gib(recorded.peak_allocated_bytes)} allocated, "
        f"{gib(recorded.peak_reserved_bytes)} reserved: {held}"
    )


def growth_answer(report: SnapshotReport) -> str:
    """``+1.20 GiB at the peak and +0.00 GiB at the end, from a.pickle to b.pickle``."""
    peak = sum(row.peak_after_bytes - row.peak_before_bytes for row in report.growth)
    end = sum(row.end_after_bytes - row.end_before_bytes for row in report.growth)
    return f"{change(peak)} at the peak and {change(end)} at the end, from {report.file} to {report.compared_with}"


def _device(report: SnapshotReport, device: DeviceReport, terminal: Terminal, top: int) -> Iterator[str | Table]:
    yield answer(report, device)
    peak = device.peak
    where = f"event {peak.event} of {device.num_events}" if device.num_events else "the moment of the snapshot"
    phase = f", in {peak.phase}" if peak.phase else ""
    yield f"\nAt the peak ({where}{phase}): {gib(peak.allocated_bytes)} allocated, {gib(peak.reserved_bytes)} reserved"
    yield _component_table(device)
    if device.num_events:
        yield _spark(device, terminal)
    yield f"\nHeld by, the {min(top, len(device.holders))} largest of {len(device.holders)} sites:"
    yield _holder_table(device.holders[:top])
    unused = peak.reserved_bytes - peak.allocated_bytes
    yield f"\nFragmentation at the peak: {gib(unused)} reserved and not allocated"
    for blocks in device.free_at_peak:
        yield f"  {_free(blocks)}"
    if device.oom is not None:
        yield from failure(device.oom)
    yield simulated(report, device)
    for warning in device.warnings:
        yield f"warning: {warning}"


def _why(oom: OutOfMemory) -> str:
    if oom.reason == "fragmentation":
        return f"fragmentation, as {gib(oom.capacity_bytes - oom.allocated_bytes)} were unused but not in one piece"
    return f"capacity, as only {gib(oom.capacity_bytes - oom.allocated_bytes)} were left"


def failure(oom: OutOfMemory) -> Iterator[str]:
    """What was asked for, what there was, and with what it would have been served; a sentence a line."""
    place = " ".join(part for part in (oom.op, oom.module, oom.source) if part)
    yield f"\nThe request that failed: {format_bytes(oom.requested_bytes)} at event {oom.event} {place}".rstrip()
    known = "" if oom.capacity_known else " at least"
    yield f"  the process could reserve{known} {gib(oom.capacity_bytes)}; too small: {_free(oom.too_small)}"
    if not oom.reproduced:
        yield "  the simulator serves this request under the recorded settings, so what follows is uncertain"
    if oom.short_bytes is not None:
        yield f"  it is served with {gib(oom.short_bytes)} more memory, or as much less held"
    served = [remedy.setting for remedy in oom.remedies if remedy.serves]
    failed = [remedy.setting for remedy in oom.remedies if not remedy.serves]
    if served:
        yield f"  served, when replayed with: {', '.join(served)}"
    if failed:
        yield f"  still fails, when replayed with: {', '.join(failed)}"


def _component_table(device: DeviceReport) -> Table:
    whole = max(device.peak.allocated_bytes, 1)
    rows = [
        (spelled(name), format_bytes(size), f"{100 * size / whole:.1f} %")
        for name, size in device.at_peak_bytes.items()
    ]
    return _table(("component", "bytes", "share"), rows, numbers=("bytes", "share"))


def _holder_table(holders: list[Holder]) -> Table:
    rows = [
        (format_bytes(row.peak_bytes), format_bytes(row.end_bytes), str(row.num_blocks), *_site(row)) for row in holders
    ]
    return _table((*_MOMENTS, "blocks", *_SITE), rows, numbers=(*_MOMENTS, "blocks"))


def _growth_table(grown: list[Growth]) -> Table:
    rows = [
        (
            change(row.peak_after_bytes - row.peak_before_bytes),
            change(row.end_after_bytes - row.end_before_bytes),
            *_site(row),
        )
        for row in grown
    ]
    return _table((*_MOMENTS, *_SITE), rows, numbers=_MOMENTS)


def _site(row: Holder | Growth) -> tuple[str, ...]:
    return spelled(row.component), row.op, row.module, row.source


def _table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]], numbers: tuple[str, ...]) -> Table:
    """A table without the columns that no row fills."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    filled = [index for index in range(len(names)) if any(row[index] for row in rows)]
    for index in filled:
        name = names[index]
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(row[index] for index in filled))
    return table


def _spark(device: DeviceReport, terminal: Terminal) -> str:
    """Allocated bytes over the events, the highest of each column."""
    levels = [int(row[1]) for row in device.timeline.rows]
    drawn = spark.bars(levels, terminal.width - 2, terminal.unicode)
    return f"\nAllocated, event by event, up to {gib(max(levels))}:\n{drawn}"


def simulated(report: SnapshotReport, device: DeviceReport) -> str:
    """What the simulator makes of the recorded sizes and order, beside what was recorded."""
    recorded, simulated = report.recorded[str(device.device)], report.simulated[str(device.device)]
    if simulated is None:
        return "\nSimulated: not for these settings"
    exact = "the same" if simulated == recorded else f"recorded {gib(recorded.peak_reserved_bytes)}"
    return (
        f"\nSimulated from sizes and order alone: peak {gib(simulated.peak_reserved_bytes)} reserved ({exact}), "
        f"{simulated.num_segment_allocs} segments taken"
    )


def _free(blocks: FreeBlocks) -> str:
    return (
        f"{blocks.num_blocks} free blocks of the {blocks.pool} pool on stream {blocks.stream}, "
        f"{format_bytes(blocks.total_bytes)} together, the largest {format_bytes(blocks.largest_bytes)}"
    )


def change(num_bytes: int) -> str:
    """``+1.20 GiB``, ``-3.00 MiB``, ``0 B``."""
    return f"{'+' if num_bytes > 0 else '-' if num_bytes < 0 else ''}{format_bytes(abs(num_bytes))}"

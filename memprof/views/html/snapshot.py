"""A SnapshotReport as a page: for each device its levels, who held what at the peak, and why a request failed."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from memprof.model.snapshot import DeviceReport, Growth, Holder, SnapshotReport
from memprof.units import format_bytes, gib
from memprof.views import snapshot_text as words
from memprof.views.html import reading
from memprof.views.html.estimate import MODULES, ROWS, SAMPLES, alive_sections
from memprof.views.html.figures import bars, timeline
from memprof.views.html.figures.tree import module_path, tree
from memprof.views.html.page import Grid, Page, Row, Section, Swatch
from memprof.views.html.palette import color_of
from memprof.views.phrases import spelled

_REMEDIES = {True: ("fits", "served"), False: ("does_not_fit", "still fails")}
_LEVELS = ("event", "allocated_bytes", "reserved_bytes", "phase")


def page(report: SnapshotReport) -> Page:
    """The first device's answer on top; further ones have theirs at the head of their sections."""
    first = report.devices[0] if report.devices else None
    sections = [section for device in report.devices for section in _device(report, device)]
    answers = [words.answer(report, device) for device in report.devices]
    if report.compared_with is not None:
        answers.insert(0, words.growth_answer(report))
        sections.insert(0, _growth(report.growth))
    return Page(
        title=report.file,
        kind="snapshot",
        answer=answers[0] if answers else "nothing was recorded",
        status="does_not_fit" if any(device.oom for device in report.devices) else "unknown",
        lines=answers[1:],
        meter=_meter(first) if first is not None else [],
        warnings=[warning for device in report.devices for warning in device.warnings][:ROWS],
        sections=[section for section in sections if not section.is_empty],
        reading=reading.EVERYTHING,
        facts=_facts(report),
    )


def _meter(device: DeviceReport) -> list[Swatch]:
    """Of all that was reserved at the peak."""
    length = max(device.peak.reserved_bytes, device.peak.allocated_bytes, 1)
    unused = device.peak.reserved_bytes - device.peak.allocated_bytes
    parts = [*device.at_peak_bytes.items(), ("fragmentation", unused)]
    return [
        Swatch(spelled(name), color_of(name), format_bytes(size), size / length) for name, size in parts if size > 0
    ]


def _device(report: SnapshotReport, device: DeviceReport) -> Iterator[Section]:
    """Keys and titles name the device where there are several."""
    alone = len(report.devices) == 1
    for section in _sections(report, device):
        if alone:
            yield section
        else:
            title = f"{section.title} (cuda:{device.device})"
            yield msgspec.structs.replace(section, key=f"{section.key}-{device.device}", title=title)


def _sections(report: SnapshotReport, device: DeviceReport) -> Iterator[Section]:
    if device.oom is not None:
        yield _oom(device)
    yield _timeline(device)
    held = [(_path(holder), holder.component, holder.peak_bytes) for holder in device.holders]
    yield from alive_sections(tree(held, MODULES, f"cuda:{device.device}"), _place(device))
    yield _bridge(report, device)
    yield _holders(device)


def _place(device: DeviceReport) -> str:
    """``event 420, forward``."""
    return ", ".join(filter(None, [f"event {device.peak.event}", device.peak.phase]))


def _path(holder: Holder) -> tuple[str, ...]:
    """By module where that is known, else by file and line; the op last."""
    where = module_path(holder.module)
    if not where and holder.source:
        file, _, line = holder.source.partition(":")
        where = (file, f"line {line}") if line else (file,)
    return (*where, holder.op) if holder.op else where


def _timeline(device: DeviceReport) -> Section:
    columns, rows = device.timeline.columns, device.timeline.rows
    section = Section(key="timeline", title="The run")
    if not device.num_events or not rows:
        return section
    at = {name: index for index, name in enumerate(columns)}
    kept = timeline.thinned(rows, at["allocated_bytes"], SAMPLES)
    parts = [name for name in columns if name not in _LEVELS]
    moments = timeline.Moments(
        stages=[""] * len(kept),
        phases=[str(row[at["phase"]]) if "phase" in at else "" for row in kept],
        places=[f"event {row[at['event']]}" for row in kept],
        total=[row[at["allocated_bytes"]] for row in kept],
        parts={name: [row[at[name]] for row in kept] for name in parts or ["allocated_bytes"]},
        lines={"reserved": [row[at["reserved_bytes"]] for row in kept]},
    )
    peak_text = f"peak {gib(device.peak.allocated_bytes)} in {_place(device)}"
    known = device.oom is not None and device.oom.capacity_known
    capacity = ("most it could reserve", device.oom.capacity_bytes) if known and device.oom is not None else None
    return Section(
        key=section.key,
        title=section.title,
        text=f"Allocated bytes by component over {device.num_events} events, and what was reserved.",
        figure=timeline.figure(moments, peak_text=peak_text, capacity=capacity),
    )


def _bridge(report: SnapshotReport, device: DeviceReport) -> Section:
    peak = device.peak
    steps = [
        bars.Step("requested", peak.requested_bytes, True),
        bars.Step("rounding", peak.allocated_bytes - peak.requested_bytes, False),
        bars.Step("allocated", peak.allocated_bytes, True),
        bars.Step("fragmentation", peak.reserved_bytes - peak.allocated_bytes, False),
        bars.Step("reserved", peak.reserved_bytes, True),
    ]
    rows = [
        Row(cells=[f"{blocks.pool} pool, stream {blocks.stream}", str(blocks.num_blocks),
                   format_bytes(blocks.total_bytes), format_bytes(blocks.largest_bytes)])
        for blocks in device.free_at_peak[:ROWS]
    ]  # fmt: skip
    grid = Grid(header=["cached and free", "blocks", "together", "largest"], rows=rows, numbers=(1, 2, 3))
    return Section(
        key="bridge",
        title="From requested to reserved",
        text="At the peak; what nvidia-smi shows is the CUDA context more.",
        figure=bars.bridge(steps, None, ", ".join(f"{step.name} {gib(step.num_bytes)}" for step in steps)),
        grid=grid if rows else None,
        notes=[words.simulated(report, device).strip()],
    )


def _oom(device: DeviceReport) -> Section:
    oom = device.oom
    assert oom is not None
    ways = [bars.Way(remedy.setting, remedy.peak_reserved_bytes, *_REMEDIES[remedy.serves]) for remedy in oom.remedies]
    capacity = ("could reserve", oom.capacity_bytes)
    text = (
        "Other settings of the allocator, each replayed: the most that was reserved, and whether the request is served."
    )
    return Section(
        key="oom",
        title="Why it ran out",
        text=text if ways else "",
        figure=bars.ways(ways, capacity, text) if ways else None,
        notes=[line.strip() for line in words.failure(oom)],
    )


def _holders(device: DeviceReport) -> Section:
    rows = [
        Row(
            cells=[
                spelled(holder.component), format_bytes(holder.peak_bytes), format_bytes(holder.end_bytes),
                str(holder.num_blocks), holder.op, holder.module, holder.source,
            ],
            color=color_of(holder.component),
        )
        for holder in device.holders[:ROWS]
    ]  # fmt: skip
    header = ["component", "at the peak", "at the end", "blocks", "op", "module", "source"]
    return Section(
        key="holders",
        title="Held by",
        text=f"The {len(rows)} largest of {len(device.holders)} sites.",
        grid=Grid(header=header, rows=rows, numbers=(1, 2, 3)).filled() if rows else None,
    )


def _growth(growth: list[Growth]) -> Section:
    rows = [
        Row(
            cells=[
                spelled(row.component),
                words.change(row.peak_after_bytes - row.peak_before_bytes),
                words.change(row.end_after_bytes - row.end_before_bytes),
                row.op,
                row.module,
                row.source,
            ],
            color=color_of(row.component),
        )
        for row in growth[:ROWS]
    ]
    header = ["component", "at the peak", "at the end", "op", "module", "source"]
    return Section(
        key="growth", title="What grew", grid=Grid(header=header, rows=rows, numbers=(1, 2)).filled() if rows else None
    )


def _facts(report: SnapshotReport) -> list[tuple[str, str]]:
    facts = [("recording", report.file), ("kind", report.kind)]
    if report.compared_with is not None:
        facts.append(("compared with", report.compared_with))
    facts += [(f"settings of cuda:{d.device}", d.settings or "PyTorch's defaults") for d in report.devices]
    facts += [("memprof", report.memprof_version), ("command", report.command)]
    return [(name, value) for name, value in facts if value]

"""A Result as a page: the answer, the step, what is alive at its peak, the bridge to the device, the other ways."""

from __future__ import annotations

import msgspec

from memprof.model.result import Result
from memprof.units import format_bytes, gib
from memprof.views import phrases
from memprof.views.html import reading
from memprof.views.html.figures import bars, icicle, timeline
from memprof.views.html.figures.tree import Node, module_path, tree
from memprof.views.html.page import Grid, Page, Row, Section, Swatch
from memprof.views.html.palette import color_of
from memprof.views.html.wording import cut

SAMPLES, MODULES, ROWS = 400, 250, 60
"""At most so many points of a timeline, holders in a tree, and rows of any other table."""
_STAGES = {"step": "steady step"}
_KNOWN = ("stage", "phase", "segment", "layer", "requested_bytes")


def page(result: Result) -> Page:
    """Every section that the result has something for."""
    sections = [_timeline(result), *_alive(result), _bridge(result), _ways(result), _phases(result), _terms(result)]
    meter, mark = _meter(result)
    return Page(
        title=str(result.scenario["model"]),
        kind="estimate",
        answer=phrases.answer(result),
        status=result.verdict.status,
        lines=[phrases.model_line(result), phrases.scenario_line(result)],
        advice=phrases.advice(result),
        meter=meter,
        mark=mark,
        warnings=result.warnings[:ROWS],
        sections=[section for section in sections if not section.is_empty],
        reading=reading.EVERYTHING,
        facts=_facts(result),
        source=msgspec.json.format(msgspec.json.encode(result.scenario), indent=2).decode(),
    )


def capacity(result: Result) -> tuple[str, int] | None:
    """(device, its bytes) where they are known."""
    total = result.device.total_bytes
    return None if total is None else (result.device.name, total)


def peak_text(result: Result) -> str:
    """``peak 27.64 GiB in backward of lm_head``, in requested bytes as the timeline is."""
    return f"peak {gib(result.peak.requested_bytes)} in {phrases.peak_place(result)}"


def _meter(result: Result) -> tuple[list[Swatch], float | None]:
    """The parts of the bar below the answer, and where on it the device ends."""
    parts = [(name, size) for name, size in result.at_peak_bytes.items() if size]
    parts.sort(key=lambda part: -part[1])
    parts += [(name, size) for name, size in result.overhead_bytes.items() if size]
    used = sum(size for _, size in parts)
    total = result.device.total_bytes
    length = max(used, total or 0, 1)
    swatches = [
        Swatch(phrases.spelled(name), color_of(name), format_bytes(size), size / length) for name, size in parts
    ]
    return swatches, None if total is None else total / length


def _timeline(result: Result) -> Section:
    columns, rows = result.timeline.columns, result.timeline.rows
    section = Section(key="timeline", title="The step")
    if not rows or not set(_KNOWN) <= set(columns):
        return section
    at = {name: index for index, name in enumerate(columns)}
    kept = timeline.thinned(rows, at["requested_bytes"], SAMPLES)
    parts = [name for name in columns if name not in _KNOWN] or ["requested_bytes"]
    moments = timeline.Moments(
        stages=[_STAGES.get(row[at["stage"]], str(row[at["stage"]])) for row in kept],
        phases=[str(row[at["phase"]]) for row in kept],
        places=[f"{row[at['phase']]}, {row[at['segment']]}, layer {row[at['layer']]}" for row in kept],
        total=[row[at["requested_bytes"]] for row in kept],
        parts={name: [row[at[name]] for row in kept] for name in parts},
    )
    text = "What is alive, by component, from loading to the end of a steady step, in requested bytes."
    return msgspec.structs.replace(
        section,
        text=f"{text} The highest is {gib(result.peak.requested_bytes)}, in {phrases.peak_place(result)}.",
        figure=timeline.figure(moments, peak_text=peak_text(result), capacity=capacity(result)),
    )


def _alive(result: Result) -> tuple[Section, Section]:
    held = [(module_path(row["module"]), row["component"], row["bytes"]) for row in result.modules_at_peak]
    nodes = tree(held, MODULES, str(result.scenario["model"]))
    return alive_sections(nodes, phrases.peak_place(result))


def alive_sections(nodes: list[Node], place: str) -> tuple[Section, Section]:
    """The icicle and its table; both empty where nothing is known to be alive."""
    key, title = "alive", "What is alive at the peak"
    if len(nodes) < 2:
        return Section(key=key, title=title), Section(key="modules", title="By module")
    whole = max(nodes[0].total_bytes, 1)
    parts: dict[str, list[Node]] = {}
    for node in nodes:
        if node.component is not None:
            parts.setdefault(node.parent, []).append(node)
    rows = [
        Row(
            cells=[
                node.name,
                format_bytes(node.own_bytes) if node.own_bytes else "",
                format_bytes(node.total_bytes),
                f"{100 * node.total_bytes / whole:.1f} %",
                ", ".join(phrases.spelled(part.name) for part in parts.get(node.key, ())),
            ],
            depth=node.depth,
            level=node.key,
        )
        for node in nodes
        if node.component is None
    ]
    text = f"Modules from the top down, as wide as what they hold when the peak is reached, in {place}."
    return (
        Section(
            key=key,
            title=title,
            text=f"{text} A click opens a box, one on the bar above it goes back; so do the names in the table below.",
            figure=icicle.figure(nodes, f"{text} {gib(whole)} in all."),
        ),
        Section(
            key="modules",
            title="By module",
            text="What each module holds itself (own) and with everything below it (total).",
            grid=Grid(header=["module", "own", "total", "share", "holds"], rows=rows, numbers=(1, 2, 3)),
        ),
    )


def _bridge(result: Result) -> Section:
    peak, overhead = result.peak, result.overhead_bytes
    steps = [
        bars.Step("requested", peak.requested_bytes, True),
        bars.Step("rounding", peak.allocated_bytes - peak.requested_bytes, False),
        bars.Step("allocated", peak.allocated_bytes, True),
    ]
    notes = []
    if peak.reserved_bytes is not None:
        steps.append(bars.Step("fragmentation", peak.reserved_bytes - peak.allocated_bytes, False))
        steps.append(bars.Step("reserved", peak.reserved_bytes, True))
    else:
        notes.append("Reserved bytes are not known: there is no caching allocator to play, or it is not modelled.")
    if peak.device_bytes is not None:
        steps += bars.steps_of({name: overhead.get(name) for name in ("context", "communicators")})
        steps.append(bars.Step("device", peak.device_bytes, True))
    elif peak.reserved_bytes is not None:
        notes.append("Device bytes, what nvidia-smi shows, are not known: the CUDA context comes on top of reserved.")
    summary = ", ".join(f"{step.name} {gib(step.num_bytes)}" for step in steps)
    return Section(
        key="bridge",
        title="From allocated to the device",
        text="Why torch.cuda.memory_allocated() and nvidia-smi never agree, step by step.",
        figure=bars.bridge(steps, capacity(result), f"{summary}."),
        notes=notes,
    )


def _ways(result: Result) -> Section:
    asked = ("as asked", result.peak.allocated_bytes, result.verdict.status)
    others = [(way.name, way.allocated_bytes, way.status) for way in result.alternatives[:ROWS]]
    known = [
        bars.Way(name, size, status, phrases.STATUS[status])
        for name, size, status in (asked, *others)
        if size is not None
    ]
    rows = [
        Row(cells=[*phrases.alternative_row(way), ", ".join(f"{name}={value}" for name, value in way.change.items())])
        for way in result.alternatives[:ROWS]
    ]
    section = Section(key="ways", title="Other ways to run it")
    if not rows:
        return section
    return msgspec.structs.replace(
        section,
        text="The same model under other settings, in allocated bytes; right of the dashed line it does not fit.",
        figure=bars.ways(known, capacity(result), "Allocated bytes of this setting and the others."),
        grid=Grid(header=["way", "peak", "verdict", "what changes"], rows=rows, numbers=(1,)),
    )


def _phases(result: Result) -> Section:
    rows = [
        Row(cells=[f"{words} {phrases.spelled(name)}", gib(size)])
        for words, sizes in (("highest in", result.phase_peak_bytes), ("held all the time:", result.persistent_bytes))
        for name, size in sizes.items()
        if size is not None
    ]
    return Section(
        key="phases",
        title="By phase",
        text="The highest of each phase, and what is held whether or not the peak is near; requested bytes.",
        grid=Grid(header=["what", "size"], rows=rows, numbers=(1,)) if rows else None,
    )


def _terms(result: Result) -> Section:
    rows = [
        Row(
            cells=[
                cut(str(term["term"]), 200),
                "" if term.get("bytes") is None else format_bytes(term["bytes"]),
                *(cut(phrases.term_values(term.get(name, "")), 400) for name in ("formula", "values", "source")),
            ]
        )
        for term in sorted(result.terms, key=lambda term: -(term.get("bytes") or 0))[: 2 * ROWS]
    ]
    header = ["term", "bytes", "formula", "values", "source"]
    more = len(result.terms) - len(rows)
    return Section(
        key="terms",
        title="Terms",
        text="The formulas behind the numbers, the largest first."
        + (f" {more} smaller ones are left out." * (more > 0)),
        grid=Grid(header=header, rows=rows, numbers=(1,)) if rows else None,
    )


def _facts(result: Result) -> list[tuple[str, str]]:
    software = {"memprof": result.memprof_version, **result.made.software}
    total = result.device.total_bytes
    return [
        ("model", str(result.scenario["model"])),
        ("command", result.made.command),
        ("engine", result.engine),
        ("evidence", f"{result.evidence.rung}: {result.evidence.basis}"),
        ("band", _band(result)),
        *_times(result),
        ("device", result.device.name + (f", {gib(total)} in all" if total is not None else "")),
        ("software", ", ".join(f"{name} {version}" for name, version in software.items() if version)),
        ("made", result.made.created_at),
    ]


def _times(result: Result) -> list[tuple[str, str]]:
    """What is known of the step's speed."""
    time = result.time
    if time.step_s is None:
        return []
    speed = "" if time.tokens_per_s is None else f", {time.tokens_per_s:,.0f} tokens/s"
    use = "" if time.mfu is None else f", {100 * time.mfu:.1f} % of the device's peak"
    return [("time of a step", f"{1000 * time.step_s:,.1f} ms{speed}{use}")]


def _band(result: Result) -> str:
    bounds = result.bounds
    ends = {
        "on the device": (bounds.device_low_bytes, bounds.device_high_bytes),
        "reserved": (bounds.reserved_low_bytes, bounds.reserved_high_bytes),
        "allocated": (bounds.allocated_low_bytes, bounds.allocated_high_bytes),
    }
    told = [f"{gib(low)} to {gib(high)} {metric}" for metric, (low, high) in ends.items() if low and high]
    return ", ".join(told) or "none recorded for this kind of scenario"

"""A Recording read from beginning to end: levels after each event, and who held what at the peak and at the end."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate, groupby
from operator import attrgetter

from memprof.allocator.settings import Settings
from memprof.measure.lives import Life, lives_of
from memprof.measure.placement import Placement
from memprof.measure.recording import Recording, Site
from memprof.model.result import Table
from memprof.model.snapshot import FreeBlocks, Holder, Moment

UNKNOWN_COMPONENT = "unknown"
ROUNDING = "rounding"
_TIMELINE_POINTS = 240


class Ledger:
    """See the module.

    Attributes:
        allocated, reserved: bytes after each event; the first entry is the state before the first event.
        lives: every block's Life, by id.
        peak_index: the first event after which ``allocated`` is highest, -1 for the initial state.
        oom_index: the first ``oom`` event, or None.
    """

    def __init__(self, recording: Recording, settings: Settings) -> None:
        self.recording = recording
        self.settings = settings
        self.lives: dict[int, Life] = lives_of(recording)
        self.allocated: list[int] = []
        self.reserved: list[int] = []
        actions = recording.tape.column("action")
        self.oom_index = actions.index("oom") if "oom" in actions else None
        placement = self.placement_at(len(actions) - 1, keep_levels=True)
        self.sizes = placement.size
        self.num_misplaced = placement.num_misplaced
        self.peak_index = max(range(len(self.allocated)), key=self.allocated.__getitem__) - 1

    def placement_at(self, last: int, keep_levels: bool = False) -> Placement:
        """The state after event ``last``."""
        placement = Placement(self.recording, self.settings)
        events = self.recording.tape.events
        rows = zip(
            self.recording.tape.column("action"),
            events.block,
            events.size,
            events.stream,
            self.recording.addresses,
            strict=True,
        )
        if keep_levels:
            self._note(placement)
        for index, row in enumerate(rows):
            if index > last:
                break
            placement.step(*row)
            if keep_levels:
                self._note(placement)
        return placement

    def _note(self, placement: Placement) -> None:
        self.allocated.append(placement.allocated)
        self.reserved.append(placement.reserved)

    def held_at(self, index: int) -> list[int]:
        """Blocks (ids) that count as allocated after an event."""
        return [
            block
            for block, life in self.lives.items()
            if block in self.sizes and life.start <= index and (life.end is None or life.end > index)
        ]

    def peak(self) -> Moment:
        held = [self.lives[block] for block in self.held_at(self.peak_index)]
        times = self.recording.tape.events.time_us
        sites = self.recording.sites()
        return Moment(
            event=self.peak_index,
            time_us=times[self.peak_index] if times and self.peak_index >= 0 else None,
            phase=sites[self.peak_index].phase if self.peak_index >= 0 else "",
            requested_bytes=sum(life.requested for life in held),
            allocated_bytes=self.allocated[self.peak_index + 1],
            reserved_bytes=self.reserved[self.peak_index + 1],
        )

    def at_peak_bytes(self) -> dict[str, int]:
        """Requested bytes by component, and the rounding; sums to the allocated bytes of the peak."""
        parts: Counter[str] = Counter()
        for block in self.held_at(self.peak_index):
            life = self.lives[block]
            parts[component_of(life)] += life.requested
            parts[ROUNDING] += self.sizes[block] - life.requested
        return dict(sorted(parts.items(), key=lambda part: -part[1]))

    def holders(self) -> list[Holder]:
        """Sites that hold something at the peak or at the end, the largest at the peak first."""
        at_peak, at_end = set(self.held_at(self.peak_index)), set(self.held_at(len(self.allocated)))
        sums: dict[tuple[str, Site], list[int]] = {}
        for block in at_peak | at_end:
            life = self.lives[block]
            row = sums.setdefault((component_of(life), life.site), [0, 0, 0])
            row[0] += 1
            row[1] += self.sizes[block] if block in at_peak else 0
            row[2] += self.sizes[block] if block in at_end else 0
        found = [
            Holder(
                component=component,
                op=site.op,
                module=site.module,
                source=site.source,
                num_blocks=count,
                peak_bytes=peak,
                end_bytes=end,
            )
            for (component, site), (count, peak, end) in sums.items()
        ]
        return sorted(found, key=lambda holder: (-holder.peak_bytes, -holder.end_bytes, holder.op, holder.source))

    def free_at(self, index: int) -> list[FreeBlocks]:
        """Cached free blocks after an event, by pool and stream."""
        stretches = [(region.pool, region.stream, size) for size, region in self.placement_at(index).free_stretches()]
        found = []
        for (pool, stream), group in groupby(sorted(stretches), key=lambda row: row[:2]):
            sizes = [size for *_, size in group]
            found.append(
                FreeBlocks(
                    pool=pool, stream=stream, num_blocks=len(sizes), total_bytes=sum(sizes), largest_bytes=max(sizes)
                )
            )
        return sorted(found, key=attrgetter("total_bytes"), reverse=True)

    def timeline(self) -> Table:
        """Levels by event, thinned out to the highest ``allocated`` of each stretch, so that no peak is lost."""
        width = -(-len(self.allocated) // _TIMELINE_POINTS)
        starts = range(0, len(self.allocated), width)
        kept = [max(range(s, min(s + width, len(self.allocated))), key=self.allocated.__getitem__) for s in starts]
        parts = self._parts_after([index - 1 for index in kept])
        phases = ["", *(site.phase for site in self.recording.sites())]
        levels = [self.allocated, self.reserved]
        return Table(
            columns=["event", "allocated_bytes", "reserved_bytes", "phase", *parts],
            rows=[
                [
                    index - 1,
                    *(level[index] for level in levels),
                    phases[index],
                    *(part[place] for part in parts.values()),
                ]
                for place, index in enumerate(kept)
            ],
        )

    def _parts_after(self, events: list[int]) -> dict[str, list[int]]:
        """Requested bytes by component after each of these events (in order), and the rounding, largest part first."""
        changes: dict[str, list[int]] = {}
        for block, life in self.lives.items():
            if block not in self.sizes:
                continue
            first = bisect_left(events, life.start)
            last = len(events) if life.end is None else bisect_left(events, life.end)
            for name, size in ((component_of(life), life.requested), (ROUNDING, self.sizes[block] - life.requested)):
                row = changes.setdefault(name, [0] * (len(events) + 1))
                row[first] += size
                row[last] -= size
        levels = {name: list(accumulate(row[:-1])) for name, row in changes.items()}
        return dict(sorted(levels.items(), key=lambda item: -max(item[1], default=0)))


def component_of(life: Life) -> str:
    return life.use.value if life.use is not None else UNKNOWN_COMPONENT

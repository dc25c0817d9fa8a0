"""Analyse a recorded run - a PyTorch memory snapshot or a tape - into a SnapshotReport."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Literal

import msgspec

from memprof import __version__
from memprof.allocator.layout import lay_out
from memprof.allocator.replay import recorded_settings, replay
from memprof.allocator.settings import Settings
from memprof.errors import ConfigError, MeasurementError
from memprof.measure.ledger import Ledger
from memprof.measure.oom import explain_oom
from memprof.measure.recording import Recording, from_tape
from memprof.measure.rewind import recordings
from memprof.measure.snapshot_pickle import read_snapshot
from memprof.model.snapshot import DeviceReport, Figures, Growth, SnapshotReport
from memprof.model.tape import Tape
from memprof.tapes import read_tape

CONF = "PYTORCH_CUDA_ALLOC_CONF"
GROWTHS = ("segment_alloc", "segment_map")
_GZIP = b"\x1f\x8b"


def read_recordings(path: Path) -> tuple[Literal["pickle", "tape"], list[Recording]]:
    """The recordings in a file, told apart by its first bytes.

    Raises:
        MeasurementError: it is neither a tape nor a snapshot, or holds nothing.
    """
    try:
        if path.exists() and not path.is_file():
            raise MeasurementError(f"{path} cannot be read: it is not a file")
        with path.open("rb") as file:
            start = file.read(len(_GZIP))
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read: {error.strerror}") from None
    if start == _GZIP:
        tape = read_tape(path)
        try:
            return "tape", [from_tape(tape)]
        except ValueError as error:
            raise MeasurementError(f"{path} does not fit together: {error}", "record it again") from None
    found = recordings(read_snapshot(path), path.name)
    if not found:
        raise MeasurementError(
            f"{path} holds no segments and no events",
            "call torch.cuda.memory._record_memory_history() before the run and dump the snapshot after it",
        )
    return "pickle", found


def analyse(
    path: Path, *, device_bytes: int | None = None, compare_with: Path | None = None, command: str = ""
) -> SnapshotReport:
    """The report on the recording at ``path``.

    Args:
        device_bytes: what the process could reserve at most, for a recording that ends out of memory and does not say.
        compare_with: a later recording; the report then lists what grew from the first to it.
        command: what the user typed, for the record.

    Raises:
        MeasurementError: a file cannot be read as a recording.
    """
    kind, found = read_recordings(path)
    views = [_Device(recording, device_bytes) for recording in found]
    report = SnapshotReport(
        memprof_version=__version__,
        file=str(path),
        kind=kind,
        recorded={str(view.index): view.recorded() for view in views},
        simulated={str(view.index): view.simulated() for view in views},
        devices=[view.report() for view in views],
        command=command,
    )
    if compare_with is None:
        return report
    after = analyse(compare_with, device_bytes=device_bytes)
    return msgspec.structs.replace(report, compared_with=str(compare_with), growth=growth(report, after))


def tape_of_file(path: Path, *, device_bytes: int | None = None) -> tuple[Tape, int | None]:
    """The tape of the busiest device in a file, and the most that it could reserve where it ran out; for exporters."""
    _, found = read_recordings(path)
    busiest = max(found, key=lambda recording: len(recording.tape.events.action))
    return busiest.tape, _Device(busiest, device_bytes).capacity


class _Device:
    """One device's recording, and what is known of the allocator that made it."""

    def __init__(self, recording: Recording, device_bytes: int | None) -> None:
        self.recording = recording
        self.tape = recording.tape
        self.index = recording.tape.device
        self.warnings = list(recording.warnings)
        self.settings: Settings | None = None
        try:
            self.settings = recorded_settings(self.tape)
        except ConfigError as error:
            self.warnings.append(f"not simulated: {error.message}")
        self.reserved = _reserved_levels(self.tape)
        self.capacity: int | None = None
        self.capacity_known = False
        actions = self.tape.column("action")
        if "oom" in actions:
            self.capacity, self.capacity_known = self._capacity(actions.index("oom"), device_bytes)
        settings = self.settings or Settings(expandable_segments=self.tape.expandable_segments)
        self.ledger = Ledger(self._placed(), settings)

    def _capacity(self, oom_index: int, device_bytes: int | None) -> tuple[int, bool]:
        """The most that the process could reserve when a request failed, and whether that is known.

        It is what it had reserved and what the device had left; without the latter, at least what it had reserved.
        """
        if device_bytes is not None:
            return device_bytes, True
        if self.recording.has_device_free:
            return self.reserved[oom_index] + self.recording.addresses[oom_index], True
        self.warnings.append(
            "what the device had left is not recorded: the failed request is judged as if nothing was; "
            "--device NAME gives the device's memory"
        )
        return max(self.reserved), False

    def _placed(self) -> Recording:
        """The recording with addresses; where none were recorded, the simulator's."""
        if self.recording.addresses or self.recording.segment_addresses:
            return self.recording
        layout = lay_out(self.tape, self.settings, device_bytes=self.capacity)
        return msgspec.structs.replace(
            self.recording,
            tape=layout.tape,
            addresses=layout.addresses,
            segment_addresses=layout.result.segment_addresses,
        )

    def recorded(self) -> Figures:
        return Figures(
            peak_reserved_bytes=max(self.reserved),
            peak_allocated_bytes=max(self.ledger.allocated),
            end_reserved_bytes=self.reserved[-1],
            num_segment_allocs=sum(action in GROWTHS for action in self.tape.column("action")),
        )

    def simulated(self) -> Figures | None:
        if self.settings is None:
            return None
        result = replay(self.tape, self.settings, device_bytes=self.capacity)
        return Figures(
            peak_reserved_bytes=result.peak_reserved_bytes,
            peak_allocated_bytes=result.peak_allocated_bytes,
            end_reserved_bytes=result.end_reserved_bytes,
            num_segment_allocs=result.num_segment_allocs,
        )

    def report(self) -> DeviceReport:
        ledger = self.ledger
        if ledger.num_misplaced:
            self.warnings.append(
                f"{ledger.num_misplaced} blocks lie where nothing was free: the recording misses events, "
                "and what is free is uncertain"
            )
        oom = None
        if self.capacity is not None and self.settings is not None:
            oom = explain_oom(ledger, self.tape, self.capacity, self.capacity_known)
        report = DeviceReport(
            device=self.index,
            num_events=len(self.tape.events.action),
            settings=str(self.tape.allocator_settings.get(CONF) or ""),
            peak=ledger.peak(),
            at_peak_bytes=ledger.at_peak_bytes(),
            holders=ledger.holders(),
            free_at_peak=ledger.free_at(ledger.peak_index),
            oom=oom,
            timeline=ledger.timeline(),
            warnings=self.warnings,
        )
        report.check()
        return report


def _reserved_levels(tape: Tape) -> list[int]:
    """Reserved bytes before the first event and after each, from the recorded segment events alone."""
    signs = {"segment_alloc": 1, "segment_map": 1, "segment_free": -1, "segment_unmap": -1}
    changes = (
        signs.get(action, 0) * size for action, size in zip(tape.column("action"), tape.events.size, strict=True)
    )
    return list(accumulate(changes, initial=sum(segment.size for segment in tape.initial_segments)))


def growth(before: SnapshotReport, after: SnapshotReport) -> list[Growth]:
    """Sites whose bytes differ, all devices together; what grew most at the peak, then at the end, comes first."""
    sums: dict[tuple[str, str, str, str], list[int]] = {}
    for offset, report in enumerate((before, after)):
        for holder in (holder for device in report.devices for holder in device.holders):
            row = sums.setdefault((holder.component, holder.op, holder.module, holder.source), [0, 0, 0, 0])
            row[offset] += holder.peak_bytes
            row[2 + offset] += holder.end_bytes
    rows = []
    for (component, op, module, source), (peak_before, peak_after, end_before, end_after) in sums.items():
        if peak_before != peak_after or end_before != end_after:
            grown = Growth(
                component=component,
                op=op,
                module=module,
                source=source,
                peak_before_bytes=peak_before,
                peak_after_bytes=peak_after,
                end_before_bytes=end_before,
                end_after_bytes=end_after,
            )
            rows.append(grown)
    return sorted(
        rows,
        key=lambda row: (row.peak_before_bytes - row.peak_after_bytes, row.end_before_bytes - row.end_after_bytes),
    )

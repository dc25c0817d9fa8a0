"""Why a request failed and what would have served it, worked by hand."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from memprof.measure.snapshot import analyse
from memprof.model.snapshot import FreeBlocks, OutOfMemory
from memprof.model.tape import Tape, TapeEvents
from memprof.tapes import write_tape
from memprof.views.torch_snapshot import snapshot_of
from tests.support.tapes import FOLDER

MIB = 1 << 20
NAMES = ["alloc", "oom", "free_requested", "free_completed"]


def failing(*mib: int, request: int, conf: str = "") -> Tape:
    """A run that holds blocks of some MiB when a request fails, and then cleans up."""
    rows = [(0, block, size * MIB) for block, size in enumerate(mib)]
    rows.append((1, None, request * MIB))
    rows += [(action, block, size * MIB) for block, size in enumerate(mib) for action in (2, 3)]
    action, block, size = (list(column) for column in zip(*rows, strict=True))
    return Tape(
        name="failing",
        names=NAMES,
        allocator_settings={"PYTORCH_CUDA_ALLOC_CONF": conf},
        events=TapeEvents(action=action, block=block, size=size, stream=[0] * len(rows)),
    )


def explained(tape: Tape, capacity: int, folder: Path) -> OutOfMemory:
    write_tape(tape, folder / "tape")
    oom = analyse(folder / "tape", device_bytes=capacity * MIB).devices[0].oom
    assert oom is not None
    return oom


def served(oom: OutOfMemory) -> dict[str, bool]:
    return {remedy.setting.partition(":")[0]: remedy.serves for remedy in oom.remedies}


def test_memory_that_is_free_but_in_pieces_is_fragmentation(tmp_path: Path) -> None:
    """2 MiB take a segment of 20, 40 MiB their own: 20 of 80 MiB are left, and 18 in the segment, for 22 in one piece.

    Expandable segments map pages of 20 MiB side by side, and 2 + 40 + 22 MiB are four of them. A first segment of 64
    MiB holds all three.
    """
    oom = explained(failing(2, 40, request=22), 80, tmp_path)
    assert oom.reason == "fragmentation"
    assert oom.reproduced
    assert (oom.allocated_bytes, oom.reserved_bytes, oom.segment_bytes) == (42 * MIB, 60 * MIB, 22 * MIB)
    assert oom.too_small == FreeBlocks(
        pool="large", stream=0, num_blocks=1, total_bytes=18 * MIB, largest_bytes=18 * MIB
    )
    assert oom.short_bytes == 2 * MIB
    assert served(oom)["expandable_segments"]
    assert served(oom)["large_segment_size_mb"]
    assert not served(oom)["max_split_size_mb"]


def test_too_little_memory_is_capacity_and_no_setting_helps(tmp_path: Path) -> None:
    oom = explained(failing(40, 30, request=22), 80, tmp_path)
    assert oom.reason == "capacity"
    assert oom.short_bytes == 12 * MIB
    assert not any(served(oom).values())


def test_what_is_short_takes_the_caches_release_into_account(tmp_path: Path) -> None:
    """The freed 30 MiB are given back before the request fails, so 40 of 80 MiB are there for 50."""
    tape = failing(40, 30, request=50)
    events = tape.events
    order = [0, 1, 5, 6, 2, 3, 4]  # the second block is freed before the request
    columns = {
        name: [getattr(events, name)[index] for index in order] for name in ("action", "block", "size", "stream")
    }
    freed = Tape(name="freed", names=NAMES, events=TapeEvents(**columns))
    oom = explained(freed, 80, tmp_path)
    assert oom.reason == "capacity"
    assert oom.short_bytes == 10 * MIB


def test_a_request_that_the_simulator_serves_is_told_as_not_reproduced(tmp_path: Path) -> None:
    oom = explained(failing(2, 40, request=22), 100, tmp_path)
    assert not oom.reproduced
    assert oom.short_bytes is None


def test_a_snapshot_tells_the_capacity_by_what_the_device_had_left(tmp_path: Path) -> None:
    snapshot = snapshot_of(failing(2, 40, request=22), device_bytes=80 * MIB)
    (tmp_path / "pickle").write_bytes(pickle.dumps(snapshot))
    report = analyse(tmp_path / "pickle")
    oom = report.devices[0].oom
    assert oom is not None
    assert (oom.device_free_bytes, oom.capacity_bytes, oom.capacity_known) == (20 * MIB, 80 * MIB, True)
    assert (oom.reason, oom.reproduced, oom.short_bytes) == ("fragmentation", True, 2 * MIB)
    assert report.simulated == report.recorded


def test_without_a_known_capacity_the_least_that_was_there_is_taken_and_told(tmp_path: Path) -> None:
    report = analyse(FOLDER / "a100_gnn_oom_expandable.tape.json.gz")
    (device,) = report.devices
    assert device.oom is not None
    assert not device.oom.capacity_known
    assert device.oom.capacity_bytes == 84_202_749_952 == report.recorded["0"].peak_reserved_bytes
    assert (device.oom.reason, device.oom.reproduced) == ("capacity", True)
    assert any("--device" in warning for warning in device.warnings)


@pytest.mark.parametrize("conf", ["expandable_segments:True", "max_split_size_mb:64"])
def test_remedies_come_on_top_of_the_recorded_settings(conf: str, tmp_path: Path) -> None:
    oom = explained(failing(40, 30, request=22, conf=conf), 80, tmp_path)
    assert oom.reproduced
    assert conf not in [remedy.setting for remedy in oom.remedies]

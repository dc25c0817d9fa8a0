from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import pytest

from memprof.errors import MeasurementError
from memprof.model.tape import TAPE_VERSION, Tape
from memprof.tapes import read_tape, tape_of, write_tape
from tests.support.tapes import NAMES, tape
from tests.support.timelines import layered_timeline


def _write(path: Path, **changes: object) -> Path:
    plain = msgspec.to_builtins(tape("h100_linear_grad"))
    path.write_bytes(gzip.compress(msgspec.json.encode({**plain, **changes})))
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.tape.json.gz"
    write_tape(tape("h100_linear_grad"), path)
    assert read_tape(path) == tape("h100_linear_grad")


def test_the_same_tape_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tape(tape("h100_linear_grad"), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_recorded_tape_names_its_source() -> None:
    assert all(tape(name).source for name in NAMES)


def test_a_tape_of_version_1_is_read(tmp_path: Path) -> None:
    old = read_tape(_write(tmp_path / "old", tape_version=1))
    assert old.events == tape("h100_linear_grad").events


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tape_version": TAPE_VERSION + 1}, "update memprof"),
        ({"tape_version": "two"}, "is not a tape"),
        ({"names": ["alloc"]}, "points outside of names"),
        ({"names": ["something"] * 30}, "unknown action 'something'"),
        ({"events": {"action": [0], "block": [], "size": [1], "stream": [0]}}, "column block has 0 entries"),
        ({"events": {"action": [2], "block": [1], "size": [-1], "stream": [0]}}, "a negative size"),
        ({"events": {"action": [2], "block": ["x"], "size": [1], "stream": [0]}}, "is not a tape"),
        ({"initial_segments": [{"size": 4, "stream": 0, "pool": "large", "blocks": [[3, None]]}]}, "do not add up"),
        ({"initial_segments": [{"size": 3, "stream": 0, "pool": "huge", "blocks": [[3, None]]}]}, "unknown pool"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_said_in_one_line(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError) as caught:
        read_tape(_write(tmp_path / "bad", **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_tape_is_said_to_end_too_early(tmp_path: Path) -> None:
    whole = _write(tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MeasurementError, match="ends too early"):
        read_tape(tmp_path / "cut")


@pytest.mark.parametrize(
    "content",
    [b"", b"not gzip", gzip.compress(b"[1, 2]"), gzip.compress(b"{")],
    ids=["empty", "not gzip", "a list", "an open brace"],  # gzip writes the time of day
)
def test_what_is_no_tape_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(MeasurementError):
        read_tape(tmp_path / "other")


def test_a_damaged_tape_is_refused(tmp_path: Path) -> None:
    damaged = bytearray(_write(tmp_path / "whole").read_bytes())
    damaged[40] ^= 0xFF
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(MeasurementError):
        read_tape(tmp_path / "damaged")


def test_a_missing_tape_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="No such file"):
        read_tape(tmp_path / "none")


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memprof.tapes.MAX_JSON_BYTES", 1000)
    with pytest.raises(MeasurementError, match="too much for a tape"):
        read_tape(_write(tmp_path / "large"))


def test_a_timeline_becomes_a_tape_of_its_unrolled_events(tmp_path: Path) -> None:
    timeline = layered_timeline(num_layers=3)
    made = tape_of(timeline, name="predicted")
    made.check()
    events = list(timeline.unroll())
    assert made.column("action").count("alloc") == sum(event.action == 0 for event in events)
    assert [
        size for size, action in zip(made.events.size, made.column("action"), strict=True) if action == "alloc"
    ] == [event.num_bytes for event in events if event.action == 0]
    assert set(made.column("component")) == {component.value for component in timeline.blocks.component}
    write_tape(made, tmp_path / "predicted")
    assert read_tape(tmp_path / "predicted") == made


def test_a_tape_has_one_name_table() -> None:
    made: Tape = tape_of(layered_timeline(num_layers=1), name="predicted")
    assert len(set(made.names)) == len(made.names)
    assert made.column("kernel") == [""] * len(made.events.action)

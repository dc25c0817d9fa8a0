"""What may be read from a pickle, and that nothing else happens."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import MeasurementError
from memprof.measure import plain_pickle
from memprof.measure.plain_pickle import load_plain, read_plain_pickle
from memprof.measure.snapshot_pickle import parse_snapshot, read_snapshot

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.just("x" * 300),
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner) | st.lists(inner, max_size=5).map(tuple),
    max_leaves=30,
)


@given(PLAIN, st.integers(2, 5))
def test_plain_data_comes_back_as_pickle_would_read_it(value: object, protocol: int) -> None:
    assert load_plain(pickle.dumps(value, protocol)) == value


@given(PLAIN.filter(bool), st.data())
def test_every_truncation_is_refused_in_one_line(value: object, data: st.DataObject) -> None:
    whole = pickle.dumps(value, 4)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(MeasurementError) as caught:
        load_plain(whole[:cut])
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_either_plain_data_or_refused(data: bytes) -> None:
    with suppress(MeasurementError):
        load_plain(data)


def test_shared_objects_stay_shared() -> None:
    frames = [{"name": "forward"}]
    first, second = load_plain(pickle.dumps([frames, frames]))
    assert first is second


class Hostile:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, ...]:
        return self.call[0], tuple(self.call[1:])


class Innocent:
    pass


def _persistent() -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> str | None:
            return "some id" if isinstance(obj, Innocent) else None

    file = io.BytesIO()
    Pickler(file, 4).dump([Innocent()])
    return file.getvalue()


MARKER = "memprof_was_here"
HOSTILE = {
    "system": lambda path: pickle.dumps(Hostile(os.system, f"touch {path}"), 4),
    "system, protocol 0": lambda path: pickle.dumps(Hostile(os.system, f"touch {path}"), 0),
    "system, protocol 2": lambda path: pickle.dumps({"segments": [Hostile(os.system, f"touch {path}")]}, 2),
    "eval": lambda path: pickle.dumps(Hostile(eval, f"open({str(path)!r}, 'w')"), 4),
    "getattr": lambda path: pickle.dumps(Hostile(getattr, "text", "upper"), 4),
    "inst": lambda path: b"(S'touch %s'\nios\nsystem\n." % str(path).encode(),
    "obj": lambda path: b"(cos\nsystem\nS'touch %s'\no." % str(path).encode(),
    "a class": lambda path: pickle.dumps(Innocent(), 4),
    "a set": lambda path: pickle.dumps({1, 2}, 4),
    "bytes": lambda path: pickle.dumps(b"1234", 4),
    "extension": lambda path: b"\x80\x02\x82\x01.",
    "persistent id": lambda path: _persistent(),
    "named by a tuple": lambda path: b"\x80\x04((lld\x93.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_plain_data_is_refused_and_nothing_is_executed(name: str, tmp_path: Path) -> None:
    marker = tmp_path / MARKER
    file = tmp_path / "hostile.pickle"
    file.write_bytes(HOSTILE[name](marker))
    with pytest.raises(MeasurementError) as caught:
        read_snapshot(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    assert not marker.exists()


def test_what_a_hostile_file_names_is_told() -> None:
    with pytest.raises(MeasurementError, match=r"asks for (posix|nt)\.system"):
        load_plain(pickle.dumps(Hostile(os.system, "true"), 4))


# Few bytes that make CPython's own unpickler take gigabytes, overflow its stack or never end.
# https://github.com/python/cpython/issues/115952
BOMBS = {
    "memo index": b"\x80\x04Nr\xff\xff\xff\x7f.",
    "frame length": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "text length": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"abc.",
    "text length of 4 bytes": b"\x80\x04X\xff\xff\xff\xffabc.",
    "bytearray length": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.",
    "long length": b"\x80\x04\x8b\xff\xff\xff\x7f12.",
    "deep key": b"\x80\x04}" + b")" + b"\x85" * 1_000_000 + b"Ns.",
    "doubling key": b"\x80\x04})" + b"\x94h\x00\x86" * 200 + b"Ns.",
    "doubling name": b"\x80\x04)\x94" + b"".join(b"h%c\x86\x94" % (i,) for i in range(60)) + b"\x93.",
    "deep value": b"\x80\x04)" + b"\x85" * 1_000_000 + b".",
    "marks": b"\x80\x04" + b"(" * 1_000_000 + b".",
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on address space")
def test_bombs_are_refused_within_bounded_memory_and_time(tmp_path: Path) -> None:
    for name, data in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    program = """
import resource, sys
from pathlib import Path
from memprof.errors import MeasurementError
from memprof.measure.snapshot_pickle import read_snapshot
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_snapshot(path)
    except MeasurementError as error:
        print(path.name, "refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines() == [f"{name} refused" for name in sorted(BOMBS)], done.stderr


def test_a_gigabyte_is_refused_without_being_read(tmp_path: Path) -> None:
    file = tmp_path / "large.pickle"
    with file.open("wb") as out:
        out.write(b"\x80\x04")
        out.truncate(3 << 30)  # sparse
    start = time.perf_counter()
    with pytest.raises(MeasurementError, match=r"is larger than 512.00 MiB.*max_entries"):
        read_plain_pickle(file)
    assert time.perf_counter() - start < 1


def test_more_objects_than_the_bound_are_refused() -> None:
    data = pickle.dumps(list(range(1000)))
    assert len(load_plain(data)) == 1000
    with pytest.raises(MeasurementError, match="more objects"):
        load_plain(data, max_opcodes=1000)
    assert plain_pickle.MAX_OPCODES == 1 << 26


@pytest.mark.parametrize("path", ["nowhere.pickle", "."])
def test_what_is_no_file_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="cannot be read"):
        read_plain_pickle(tmp_path / path)


SEGMENT = {
    "device": 0,
    "address": 4096,
    "total_size": 2048,
    "stream": 0,
    "segment_type": "small",
    "blocks": [{"size": 2048, "requested_size": 2000, "state": "active_allocated", "frames": []}],
}
WRONG = {
    "a number": 3,
    "no segments": {"device_traces": []},
    "segments of the wrong type": {"segments": {}},
    "a segment that is text": {"segments": ["x"]},
    "a size that is text": {"segments": [{**SEGMENT, "total_size": "2048"}]},
    "a size that is true": {"segments": [{**SEGMENT, "total_size": True}]},
    "a negative size": {"segments": [{**SEGMENT, "total_size": -1}]},
    "a size beyond all memory": {"segments": [{**SEGMENT, "total_size": 1 << 64}]},
    "blocks that do not add up": {"segments": [{**SEGMENT, "total_size": 4096}]},
    "an unknown state": {"segments": [{**SEGMENT, "blocks": [{"size": 2048, "state": "lost"}]}]},
    "a pool that is text": {"segments": [{**SEGMENT, "segment_pool_id": ("a", "b")}]},
    "an unknown action": {"segments": [], "device_traces": [[{"action": "explode"}]]},
    "a trace that is text": {"segments": [], "device_traces": ["alloc"]},
    "a frame that is text": {"segments": [], "device_traces": [[{"action": "alloc", "frames": ["x"]}]]},
    "a line that is text": {
        "segments": [],
        "device_traces": [[{"action": "alloc", "frames": [{"filename": "a", "line": "1", "name": "f"}]}]],
    },
    "settings that are a list": {"segments": [], "allocator_settings": []},
}


@pytest.mark.parametrize("name", WRONG)
def test_plain_data_of_another_shape_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.pickle"
    file.write_bytes(pickle.dumps(WRONG[name]))
    with pytest.raises(MeasurementError, match="is not a PyTorch memory snapshot") as caught:
        read_snapshot(file)
    assert "\n" not in str(caught.value)


@given(PLAIN)
def test_any_plain_data_is_a_snapshot_or_refused(value: object) -> None:
    for data in (value, {"segments": value}, {"segments": [value]}, {"segments": [], "device_traces": value}):
        with suppress(ValueError):
            parse_snapshot(load_plain(pickle.dumps(data)))


def test_a_list_that_holds_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="where a dict"):
        parse_snapshot(load_plain(pickle.dumps(loop)))

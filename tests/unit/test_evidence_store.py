from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import MeasurementError
from memprof.model.evidence import EVIDENCE_VERSION, Environment, Evidence, Measurement
from memprof.model.scenario import Scenario
from memprof.verify import store


def record(name: str = "llama", **fields: object) -> Evidence:
    return Evidence(
        name=name,
        environment=Environment(device="h100-80gb"),
        scenario=Scenario(model="llama-13b"),
        status="ok",
        measured=Measurement(peak_reserved_bytes=7),
        **fields,  # type: ignore[arg-type]
    )


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = store.write(record(), tmp_path)
    assert path.parent == tmp_path / "h100-80gb"
    assert path.name.startswith("llama-")
    assert store.read(path) == record()
    assert store.read_all(tmp_path) == [record()]


def test_the_same_record_is_written_once_and_another_of_its_name_beside_it(tmp_path: Path) -> None:
    assert store.write(record(), tmp_path) == store.write(record(), tmp_path)
    store.write(record(message="again"), tmp_path)
    assert [each.message for each in store.read_all(tmp_path)].count("") == 1
    assert len(store.read_all(tmp_path)) == 2


def test_a_file_that_was_changed_by_hand_is_left_alone(tmp_path: Path) -> None:
    path = store.write(record(), tmp_path)
    path.write_text("mine")
    with pytest.raises(MeasurementError, match="holds another record"):
        store.write(record(), tmp_path)
    assert path.read_text() == "mine"


def test_no_draft_is_left_behind(tmp_path: Path) -> None:
    path = store.write(record(), tmp_path)
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MeasurementError, match="cannot be written"):
        store.write(record(), tmp_path / "file")


def test_the_version_stands_in_the_file_so_that_an_older_reader_sees_it(tmp_path: Path) -> None:
    path = store.write(record(), tmp_path)
    fields = msgspec.json.decode(path.read_bytes())
    assert fields["schema_version"] == EVIDENCE_VERSION
    path.write_bytes(msgspec.json.encode(fields | {"schema_version": EVIDENCE_VERSION + 1, "status": "molten"}))
    with pytest.raises(MeasurementError, match=f"schema_version {EVIDENCE_VERSION + 1}.*update memprof"):
        store.read(path)


def test_fields_that_a_later_memprof_added_are_passed_over(tmp_path: Path) -> None:
    path = store.write(record(), tmp_path)
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | {"weather": "fair"}))
    assert store.read(path) == record()


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"null", b"\xff\xfe", b'{"schema_version": "one"}', b'{"name": 3}', b"[" * 100_000, b'{"name": "x"}'],
)
def test_what_is_no_record_is_one_error_with_the_files_name(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text)
    with pytest.raises(MeasurementError, match=r"bad\.json"):
        store.read_all(tmp_path)
    assert path.read_bytes() == text


@given(cut=st.integers(min_value=0, max_value=len(store.encode(record())) - 2))
def test_a_truncated_record_never_passes_for_one(cut: int) -> None:
    with pytest.raises(MeasurementError):
        store.decoded(store.encode(record())[:cut], "cut.json")


@given(name=st.text(min_size=1))
def test_any_name_becomes_a_file_in_the_devices_folder(name: str) -> None:
    assert set("/\\\0").isdisjoint(store.key(record(name)))
    assert not store.key(record(name)).startswith(".")


def test_folders_without_records_are_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="holds no evidence"):
        store.read_all(tmp_path)
    with pytest.raises(MeasurementError, match="not a folder"):
        store.read_all(tmp_path / "nowhere")


def test_the_summary_is_no_record(tmp_path: Path) -> None:
    store.write(record(), tmp_path)
    (tmp_path / store.SUMMARY).write_text("{}")
    assert len(store.read_all(tmp_path)) == 1

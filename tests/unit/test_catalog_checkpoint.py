"""Checkpoints: true bytes per dtype from headers, and headers that lie are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.catalog import checkpoint
from memprof.errors import ModelError

GOOD = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]},
    "c": {"dtype": "U8", "shape": [0, 4], "data_offsets": [16, 16]},
}


def write(path: Path, header: Any, data_bytes: int = 16, claimed: int | None = None) -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(encoded) if claimed is None else claimed
    path.write_bytes(length.to_bytes(8, "little") + encoded + bytes(data_bytes))
    return path


def test_bytes_are_summed_by_dtype(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", GOOD)

    assert checkpoint.file_dtypes(path) == {"bfloat16": 12, "float32": 4, "uint8": 0}


def test_padding_behind_the_header_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", json.dumps(GOOD).encode() + b"     ")

    assert checkpoint.file_dtypes(path)["bfloat16"] == 12


def tensor(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]} | changes}


LIES = {
    "not JSON": b"{not json",
    "not an object": b"[1, 2, 3]",
    "not UTF-8": b'{"\xff\xfe": 1}',
    "nested without end": b'{"a":' * 100_000,
    "unknown dtype": tensor(dtype="F7"),
    "dtype of the wrong type": tensor(dtype=4),
    "shape of the wrong type": tensor(shape="24"),
    "negative dimension": tensor(shape=[-2, -4]),
    "fractional dimension": tensor(shape=[2.5, 4]),
    "shape larger than its bytes": tensor(shape=[2**40, 2**40]),
    "too many dimensions": tensor(shape=[1] * 100_000),
    "bytes short of the file": tensor(shape=[2, 2], data_offsets=[0, 8]),
    "bytes beyond the file": tensor(shape=[2, 40], data_offsets=[0, 160]),
    "backward offsets": tensor(data_offsets=[16, 0]),
    "gap at the start": tensor(shape=[2, 2], data_offsets=[8, 16]),
    "three offsets": tensor(data_offsets=[0, 8, 16]),
    "unknown field": tensor(extra=1),
    "metadata that is not text": {"__metadata__": {"a": 1}} | tensor(),
    "overlap": tensor() | {"b": {"dtype": "BF16", "shape": [4], "data_offsets": [8, 16]}},
}


@pytest.mark.parametrize("header", LIES.values(), ids=LIES.keys())
def test_a_header_that_lies_is_refused_in_one_line(tmp_path: Path, header: Any) -> None:
    path = write(tmp_path / "model.safetensors", header)

    with pytest.raises(ModelError) as refusal:
        checkpoint.file_dtypes(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("claimed", [0, 1, 10_000, checkpoint.MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_a_false_header_length_is_refused(tmp_path: Path, claimed: int) -> None:
    path = write(tmp_path / "model.safetensors", GOOD, claimed=claimed)

    with pytest.raises(ModelError):
        checkpoint.file_dtypes(path)


@pytest.mark.parametrize("size", range(12))
def test_a_file_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "model.safetensors", GOOD)
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(ModelError):
        checkpoint.file_dtypes(path)


def test_a_huge_header_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((checkpoint.MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        file.truncate(checkpoint.MAX_HEADER_BYTES * 2)  # sparse: takes no disk

    with pytest.raises(ModelError, match="claims a header"):
        checkpoint.file_dtypes(path)


def shards(folder: Path, weight_map: dict[str, str]) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_shards_are_summed(tmp_path: Path) -> None:
    write(tmp_path / "one.safetensors", tensor())
    write(tmp_path / "two.safetensors", {"b": tensor(dtype="F32", shape=[4])["a"]})

    folder = shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    assert checkpoint.folder_dtypes(folder) == {"bfloat16": 16, "float32": 16}


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "missing.safetensors"},
        {"a": "../one.safetensors"},
        {"a": "one.safetensors", "ghost": "one.safetensors"},
        {"other": "one.safetensors"},
        {"a": 1},
        [],
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, weight_map: Any) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder / "one.safetensors", tensor())
    write(tmp_path / "one.safetensors", tensor())

    with pytest.raises(ModelError):
        checkpoint.folder_dtypes(shards(folder, weight_map))


def test_a_folder_without_safetensors_has_no_dtypes(tmp_path: Path) -> None:
    assert checkpoint.folder_dtypes(tmp_path) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from([("F32", "float32", 4), ("BF16", "bfloat16", 2), ("I8", "int8", 1)]),
            st.lists(st.integers(0, 5), max_size=4),
        ),
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_any_true_header_is_summed(tmp_path_factory, tensors, random) -> None:  # type: ignore[no-untyped-def]
    header, expected, end = {}, {}, 0
    for index, ((code, dtype, size), shape) in enumerate(tensors):
        num_bytes = size
        for dimension in shape:
            num_bytes *= dimension
        header[f"t{index}"] = {"dtype": code, "shape": shape, "data_offsets": [end, end + num_bytes]}
        expected[dtype] = expected.get(dtype, 0) + num_bytes
        end += num_bytes
    shuffled = dict(random.sample(sorted(header.items()), len(header)))
    path = write(tmp_path_factory.mktemp("true") / "model.safetensors", shuffled, end)

    assert checkpoint.file_dtypes(path) == expected


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_summed_to_the_file(tmp_path_factory, content: bytes) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    path.write_bytes(content)
    try:
        total = sum(checkpoint.file_dtypes(path).values())
    except ModelError:
        return
    assert total == len(content) - 8 - int.from_bytes(content[:8], "little")

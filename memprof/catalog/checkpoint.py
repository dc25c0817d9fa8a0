"""What a checkpoint on disk holds: bytes per dtype, from safetensors headers alone; no weight is read.

Headers are untrusted: every length, offset, shape and dtype is checked against the file before it is believed.

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated

import msgspec

from memprof.errors import ModelError

MAX_HEADER_BYTES = 100_000_000  # as the library: safetensors/src/tensor.rs, MAX_HEADER_SIZE
_MAX_INDEX_BYTES = 64 << 20
_MAX_DIMENSIONS = 32

# safetensors' dtype codes as (PyTorch's name, bytes).
_DTYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1), "F8_E8M0": ("float8_e8m0fnu", 1),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1),
    "U64": ("uint64", 8), "U32": ("uint32", 4), "U16": ("uint16", 2), "U8": ("uint8", 1),
    "BOOL": ("bool", 1), "C64": ("complex64", 8),
}  # fmt: skip

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor of a header; ``data_offsets`` count from the header's end: first byte, and the one behind the last."""

    dtype: str
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=_MAX_DIMENSIONS)]
    data_offsets: tuple[_Size, _Size]


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


def folder_dtypes(folder: Path) -> dict[str, int] | None:
    """Bytes per dtype of a model folder's checkpoint, whole or in shards; None where it holds no safetensors.

    Raises:
        ModelError: an index or a header that cannot be true.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _sharded_dtypes(index)
    single = folder / "model.safetensors"
    return file_dtypes(single) if single.is_file() else None


def file_dtypes(path: Path) -> dict[str, int]:
    """Bytes per dtype of one safetensors file.

    Raises:
        ModelError: a header that cannot be true.
    """
    return _sum_by_dtype(read_header(path))


def read_header(path: Path) -> dict[str, Tensor]:
    """Tensors by name: an 8-byte little-endian length, that much JSON, and data that the tensors cover without a gap.

    Raises:
        ModelError: a header that cannot be true.
    """
    try:
        with path.open("rb") as file:
            file_bytes = path.stat().st_size
            header_bytes = int.from_bytes(file.read(8), "little")
            if file_bytes < 8 or not 2 <= header_bytes <= min(MAX_HEADER_BYTES, file_bytes - 8):
                raise _lie(path, f"claims a header of {header_bytes:,} bytes in a file of {file_bytes:,}")
            header = file.read(header_bytes)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None
    tensors = _decode(path, header)
    _check_offsets(path, tensors, file_bytes - 8 - header_bytes)
    return tensors


def _decode(path: Path, header: bytes) -> dict[str, Tensor]:
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        if "__metadata__" in raw:
            msgspec.json.decode(raw.pop("__metadata__"), type=dict[str, str])
        return {name: msgspec.json.decode(tensor, type=Tensor) for name, tensor in raw.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _lie(path, f"is not a safetensors header ({error})") from None


def _check_offsets(path: Path, tensors: Mapping[str, Tensor], data_bytes: int) -> None:
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        if tensor.dtype not in _DTYPES:
            raise _lie(path, f"gives {name!r} the unknown dtype {tensor.dtype!r}")
        start, stop = tensor.data_offsets
        if start != end:
            raise _lie(path, f"leaves a gap or an overlap before {name!r} at byte {start:,}")
        if stop - start != prod(tensor.shape) * _DTYPES[tensor.dtype][1]:
            raise _lie(path, f"gives {name!r} {stop - start:,} bytes, not what its shape and dtype take")
        end = stop
    if end != data_bytes:
        raise _lie(path, f"describes {end:,} bytes of data, the file holds {data_bytes:,}")


def _sum_by_dtype(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for tensor in tensors.values():
        total[_DTYPES[tensor.dtype][0]] += tensor.data_offsets[1] - tensor.data_offsets[0]
    return dict(total)


def _sharded_dtypes(index: Path) -> dict[str, int]:
    if index.stat().st_size > _MAX_INDEX_BYTES:
        raise _lie(index, "is too large for an index")
    try:
        weight_map = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _lie(index, f"is not a shard index ({error})") from None
    total: Counter[str] = Counter()
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or not (index.parent / shard).is_file():
            raise _lie(index, f"names the shard {shard!r}, which is not in its folder")
        tensors = read_header(index.parent / shard)
        mapped = {name for name, file in weight_map.items() if file == shard}
        if mapped != tensors.keys():
            name = min(mapped ^ tensors.keys())
            raise _lie(index, f"and the shard {shard!r} disagree about {name!r}")
        total.update(_sum_by_dtype(tensors))
    return dict(total)


def _lie(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} {what}", "download the file again; it is damaged or not what it says")

"""The longest batch that a data loader could give, before it does."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sized
from typing import Any

_MOST_S = 5.0
"""Examples are looked at for so long; a column of lengths takes no time."""


def longest_batch(loader: Any, batch_size: int, length_column: str = "length") -> Mapping[str, Any] | None:
    """The longest example as often as a batch is large, as the loader's own collator lays it out.

    Args:
        loader: a ``torch.utils.data.DataLoader`` over examples with ``input_ids``.
        batch_size: examples of a micro-batch.
        length_column: where a dataset keeps the lengths, if it does.

    Returns:
        None where examples have no length, or none can be looked at without being used up.
    """
    dataset = loader.dataset
    if not isinstance(dataset, Sized) or len(dataset) == 0:
        return None
    lengths = _lengths(dataset, length_column)
    if not lengths:
        return None
    example = dataset[max(range(len(lengths)), key=lengths.__getitem__)]  # type: ignore[index]
    batch = loader.collate_fn([example] * batch_size)
    return batch if isinstance(batch, Mapping) else None


def _lengths(dataset: Any, column: str) -> list[int]:
    if column in (getattr(dataset, "column_names", None) or ()):
        return list(dataset[column])
    lengths: list[int] = []
    until = time.monotonic() + _MOST_S
    for index in range(len(dataset)):
        example = dataset[index]
        if not isinstance(example, Mapping) or "input_ids" not in example or time.monotonic() > until:
            break
        lengths.append(len(example["input_ids"]))
    return lengths

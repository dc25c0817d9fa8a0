from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import ConfigError
from memprof.importers.overrides import assignment, lay_over


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("seed=3", ("seed", "3")),
        ("software.torch=2.10", ("software.torch", "2.10")),
        ("quantization=null", ("quantization", None)),
        ('software.torch="null"', ("software.torch", "null")),
        ('offload=["optimizer"]', ("offload", ["optimizer"])),
        ('checkpointing={"every": 2}', ("checkpointing", {"every": 2})),
        ("model=a=b", ("model", "a=b")),
    ],
)
def test_an_assignment_is_a_dotted_name_and_a_value(text: str, pair: tuple[str, Any]) -> None:
    assert assignment(text) == pair


@pytest.mark.parametrize(
    "text", ["", "seed", "=3", ".=3", "batch.=3", "a..b=1", "offload=[", "x={'a': 1}", "x=" + "[" * 99999]
)
def test_a_broken_assignment_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        assignment(text)


def test_later_fields_beat_earlier_ones_and_leave_the_rest() -> None:
    data = {"model": "gpt2", "batch": {"micro_batch_size": 1, "sequence_length": 8}, "adapter": None}
    laid = lay_over(data, [("batch.micro_batch_size", 2), ("adapter.rank", 4), ("batch.micro_batch_size", 3)])
    assert laid == {"model": "gpt2", "batch": {"micro_batch_size": 3, "sequence_length": 8}, "adapter": {"rank": 4}}
    assert data["batch"] == {"micro_batch_size": 1, "sequence_length": 8}


@given(st.text(max_size=30))
def test_any_text_is_an_assignment_or_a_config_error(text: str) -> None:
    with suppress(ConfigError):
        dotted, value = assignment(text)
        assert lay_over({}, [(dotted, value)])

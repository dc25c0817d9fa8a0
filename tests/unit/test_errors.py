from __future__ import annotations

import pytest

from memprof import errors
from memprof.errors import ConfigError, MemprofError, UnsupportedError, did_you_mean


def test_an_error_reads_as_what_then_what_to_do() -> None:
    assert str(ConfigError("batch is off", "write a number")) == "batch is off; write a number"
    assert str(ConfigError("batch is off")) == "batch is off"


def test_every_error_is_a_memprof_error() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) == 7
    assert all(issubclass(kind, MemprofError) for kind in kinds)


def test_what_an_engine_lacks_is_told_apart_from_what_cannot_be() -> None:
    assert issubclass(UnsupportedError, ConfigError)


@pytest.mark.parametrize(
    ("word", "hint"), [("dta", "did you mean data?"), ("DATA", "did you mean data?"), ("zzz", None), ("", None)]
)
def test_a_misspelt_word_gets_the_nearest_known_one(word: str, hint: str | None) -> None:
    assert did_you_mean(word, ["data", "tensor"]) == hint

"""The hub through its real client, which the tests keep offline."""

from __future__ import annotations

import pytest

from memprof.catalog.resolve import resolve
from memprof.errors import ModelError


@pytest.mark.parametrize("name", ["somebody/something-new", "some..body/something--new"])
def test_a_hub_that_cannot_be_reached_is_one_line(name: str) -> None:
    with pytest.raises(ModelError, match="the hub did not give") as refusal:
        resolve(name, online=True)
    assert "\n" not in str(refusal.value)

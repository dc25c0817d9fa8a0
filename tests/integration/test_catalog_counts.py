"""Every catalogued model has exactly the parameters of the real one, counted on the meta device."""

from __future__ import annotations

import pytest

from memprof.catalog import names
from memprof.catalog.resolve import resolve
from tests.support.real_models import on_meta


@pytest.mark.parametrize("name", names.names())
def test_count_is_the_real_models(name: str) -> None:
    architecture = resolve(name)
    model = on_meta(architecture.config, architecture.task)

    assert architecture.num_parameters == sum(tensor.numel() for tensor in model.parameters())

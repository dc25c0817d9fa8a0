"""Loading a checkpoint for real, in a process that watches its own memory."""

from __future__ import annotations

import msgspec
import pytest

from memprof.catalog.resolve import find_config
from memprof.verify.loading import Format, Loaded, Question
from memprof.verify.process import started


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["safetensors", "pickle"])
def test_a_checkpoint_is_loaded_in_less_than_two_copies(file_format: Format) -> None:
    config, _ = find_config("distilgpt2")
    with started("memprof.verify.loading", msgspec.json.encode(Question(config, file_format))) as loading:
        ended = loading.ended(300)
    assert ended.answer is not None, ended.message
    loaded = msgspec.json.decode(ended.answer, type=Loaded)
    assert loaded.weight_bytes == 4 * 81_912_576
    assert 0 < loaded.peak_bytes < 2 * loaded.weight_bytes

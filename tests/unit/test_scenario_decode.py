from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import ConfigError
from memprof.importers.overrides import lay_over
from memprof.model.decode import decode
from memprof.model.ranges import RANGES
from memprof.model.scenario import Adapter, Scenario, SelectiveCheckpointing, to_builtins

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({*RANGES, *Scenario.__struct_fields__, "adapter.target_modules", "offload", "software.torch"})


def test_a_model_alone_is_a_scenario() -> None:
    assert decode({"model": "gpt2"}) == Scenario(model="gpt2")


def test_every_default_written_out_reads_back_the_same() -> None:
    scenario = Scenario(model="gpt2", adapter=Adapter(rank=4, target_modules=("c_attn",)), offload=("optimizer",))
    assert decode(to_builtins(scenario)) == scenario


def test_text_is_read_as_the_type_of_its_field() -> None:
    scenario = decode(
        {
            "model": "gpt2",
            "batch": {"micro_batch_size": "2"},
            "loop": {"keep_outputs": "true", "clip_grad_norm": "1e-3"},
            "software": {"torch": "2.10"},
            "checkpointing": {"every": "3"},
        }
    )
    assert scenario.batch.micro_batch_size == 2
    assert scenario.loop.keep_outputs is True
    assert scenario.loop.clip_grad_norm == 1e-3
    assert scenario.software.torch == "2.10"
    assert scenario.checkpointing == SelectiveCheckpointing(every=3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("parallelism.dta", 2, "parallelism.dta: unknown field; did you mean data?"),
        ("modell", "gpt2", "modell: unknown field; did you mean model?"),
        ("adapter.rnk", 2, "adapter.rnk: unknown field; did you mean rank?"),
        ("checkpointing.evry", 2, "checkpointing.evry: unknown field; did you mean every?"),
        ("software.xyzzy", 2, "software.xyzzy: unknown field; the fields here are torch, transformers"),
        ("batch.micro_batch_size", "two", "batch.micro_batch_size must be a whole number, got 'two'"),
        ("batch.micro_batch_size", 1.5, "batch.micro_batch_size must be a whole number, got 1.5"),
        ("batch.micro_batch_size", True, "batch.micro_batch_size must be a whole number, got true"),
        ("batch.micro_batch_size", None, "batch.micro_batch_size must be a whole number, got null"),
        ("batch.sequence_length", "long", "batch.sequence_length must be a whole number or null, got 'long'"),
        ("batch", 3, "batch must be a mapping, got 3"),
        ("loop.keep_outputs", "yes", "loop.keep_outputs must be true or false, got 'yes'"),
        ("loop.dropout", [], "loop.dropout must be a number or null, got a list"),
        ("precision", "bf61", "precision must be one of fp32, bf16, fp16, bf16-mixed, fp16-mixed, got 'bf61'"),
        ("precision", {}, "precision must be one of fp32, bf16, fp16, bf16-mixed, fp16-mixed, got a mapping"),
        ("mode", "training", "mode must be one of train, inference, got 'training'; did you mean train?"),
        ("checkpointing", "fulll", "checkpointing must be one of none, full, selective, got 'fulll'"),
        ("offload", "optimizer", "offload must be a list, got 'optimizer'"),
        ("offload", ["optimzer"], "offload.0 must be one of optimizer, parameters, got 'optimzer'"),
        ("adapter.target_modules", [3], "adapter.target_modules.0 must be text, got 3"),
        ("model", 3, "model must be text, got 3"),
    ],
)
def test_a_wrong_value_names_its_dotted_field(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(lay_over({"model": "gpt2"}, [(field, value)]))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "model is missing; every scenario needs it"),
        ([], "a scenario must be a mapping, got a list"),
        ("gpt2", "a scenario must be a mapping, got 'gpt2'"),
        ({1: 2, "model": "gpt2"}, "a field name is not text"),
    ],
)
def test_what_is_no_scenario_is_refused(data: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(data)
    assert str(caught.value).startswith(message)


def test_a_long_wrong_value_is_shown_shortened() -> None:
    with pytest.raises(ConfigError) as caught:
        decode({"model": "gpt2", "seed": "x" * 10_000})
    assert len(str(caught.value)) < 120


@given(PLAIN)
def test_any_plain_data_is_a_scenario_or_a_config_error(data: Any) -> None:
    with suppress(ConfigError):
        assert isinstance(decode(data), Scenario)


@given(st.dictionaries(st.sampled_from(FIELDS), PLAIN, max_size=4))
def test_any_values_in_real_fields_are_a_scenario_or_a_config_error(values: dict[str, Any]) -> None:
    with suppress(ConfigError):
        assert isinstance(decode(lay_over({"model": "gpt2"}, values.items())), Scenario)

"""LoRA: which modules are adapted, and what is refused."""

from __future__ import annotations

import pytest

from memprof.errors import ConfigError
from memprof.model.architecture import Architecture, Parameter, Stage
from memprof.semantics.lora import adapter_parameters, check_targets, is_adapted, target_modules

Q_PROJ = Parameter("self_attn.q_proj.weight", (8, 4), "linear")
LLAMA = Architecture(
    name="tiny-llama", hf_id=None, model_type="llama", task="causal-lm", config={},
    stages=(
        Stage("model.layers.*", 2, (Q_PROJ, Parameter("input_layernorm.weight", (4,), "norm"))),
        Stage("", 1, (Parameter("lm_head.weight", (16, 4), "linear"),)),
    ),
)  # fmt: skip


def test_what_was_asked_beats_the_default() -> None:
    assert target_modules("llama", None) == ("q_proj", "v_proj")
    assert target_modules("llama", ("o_proj",)) == ("o_proj",)


def test_an_architecture_without_a_default_needs_targets() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.target_modules is needed: PEFT has no default for phi3"):
        target_modules("phi3", None)
    assert target_modules("phi3", ("qkv_proj",)) == ("qkv_proj",)


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [(("q_proj",), True), (("self_attn.q_proj",), True), (("proj",), False), (("q",), False), (("all-linear",), True)],
)
def test_targets_match_whole_names_from_the_end(targets: tuple[str, ...], adapted: bool) -> None:
    assert is_adapted(Q_PROJ, "model.layers.*.self_attn.q_proj.weight", targets) is adapted


def test_biases_and_norms_are_never_adapted() -> None:
    assert not is_adapted(Parameter("q_proj.bias", (8,), "bias"), "q_proj.bias", ("q_proj",))
    assert not is_adapted(Parameter("norm.weight", (8,), "norm"), "norm.weight", ("norm",))


def test_all_linear_leaves_the_heads_out() -> None:
    head = Parameter("lm_head.weight", (16, 4), "linear")
    assert not is_adapted(head, "lm_head.weight", ("all-linear",), {"lm_head"})
    assert is_adapted(head, "lm_head.weight", ("lm_head",), {"lm_head"})


@pytest.mark.parametrize(
    ("kind", "a", "b"),
    [("linear", (2, 4), (8, 2)), ("conv1d", (2, 8), (4, 2)), ("embedding", (2, 8), (4, 2))],
)
def test_shapes_follow_what_goes_in_and_out(kind: str, a: tuple[int, int], b: tuple[int, int]) -> None:
    added = adapter_parameters(Parameter("m.weight", (8, 4), kind), 2)  # type: ignore[arg-type]
    assert tuple(parameter.shape for parameter in added) == (a, b)


def test_a_target_that_no_module_has_is_refused_with_the_names_there_are() -> None:
    check_targets(LLAMA, ("q_proj", "lm_head"))
    with pytest.raises(ConfigError, match=r"no module of tiny-llama is named qproj; .* lm_head, q_proj"):
        check_targets(LLAMA, ("q_proj", "qproj"))

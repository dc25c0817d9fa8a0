"""Optimizer rules: names resolve, programs conserve, states have the sizes and places of their libraries."""

from __future__ import annotations

from itertools import accumulate
from math import prod
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import ConfigError, UnsupportedError
from memprof.model.scenario import Optimizer, OptimizerName
from memprof.semantics.clipping import clip_grad_norm_events
from memprof.semantics.optimizer_program import Event, Parameter, play
from memprof.semantics.optimizers import optimizer_rule

NAMES = get_args(OptimizerName)
DTYPES = ["float32", "bfloat16", "float16"]
shapes = st.lists(st.integers(1, 300), min_size=1, max_size=3).map(tuple)
parameters = st.lists(st.builds(Parameter, shapes, st.sampled_from(DTYPES)), min_size=1, max_size=8)


def rule(name: str, device_kind: str = "cuda", dtype: str = "bfloat16", **settings: Any) -> Any:
    return optimizer_rule(Optimizer(name=name, **settings), device_kind, dtype)  # type: ignore[arg-type]


def signed(event: Event) -> int:
    return event.num_bytes if event.action == "alloc" else -event.num_bytes


def peak(events: Any) -> int:
    return max(accumulate(map(signed, events), initial=0))


@pytest.mark.parametrize(
    ("name", "on_cuda", "on_cpu"),
    [
        ("adamw", "fused", "fused"),
        ("adam", "foreach", "for-loop"),
        ("sgd", "foreach", "for-loop"),
        ("rmsprop", "foreach", "for-loop"),
        ("adagrad", "foreach", "for-loop"),
        ("adafactor", "for-loop", "for-loop"),
        ("adamw-8bit", "fused", "fused"),
    ],
)
def test_auto_is_what_people_run(name: str, on_cuda: str, on_cpu: str) -> None:
    assert (rule(name).implementation, rule(name, "cpu").implementation) == (on_cuda, on_cpu)


@given(parameters, st.sampled_from(NAMES), st.sampled_from(["cuda", "cpu"]), st.sampled_from(["auto", "foreach"]))
def test_every_state_is_made_once_and_every_temporary_ends(
    given_parameters: list[Parameter], name: str, device_kind: str, implementation: str
) -> None:
    if rule(name, device_kind, "float32").library != "torch":
        implementation = "auto"
    found = rule(name, device_kind, "float32", implementation=implementation)
    first = [*play(found.construction, given_parameters), *play(found.first_step, given_parameters)]
    steady = list(play(found.steady_step, given_parameters))
    states = sum(found.state_bytes(*p) for p in given_parameters)
    shared = sum(s.num_bytes for s in found.shared(tuple(p.shape for p in given_parameters)) if s.place == "device")
    assert sum(e.num_bytes for e in first if e.is_state) == states + shared
    assert sum(map(signed, first)) == states + shared
    assert sum(map(signed, steady)) == 0
    assert not any(e.is_state for e in steady)


@given(parameters)
def test_a_fused_step_needs_nothing_and_foreach_one_copy(given_parameters: list[Parameter]) -> None:
    weights = sum(2 * prod(p.shape) for p in given_parameters)
    same = [Parameter(p.shape, "bfloat16") for p in given_parameters]
    assert list(play(rule("adamw").steady_step, same)) == []
    assert peak(play(rule("adamw", implementation="foreach").steady_step, same)) == weights
    assert peak(play(rule("adagrad").steady_step, same)) == 2 * weights


def test_a_for_loop_holds_the_last_denominator_while_it_makes_the_next() -> None:
    found = rule("adamw", implementation="for-loop")
    big, small = Parameter((100, 100), "float32"), Parameter((10,), "float32")
    assert peak(play(found.steady_step, [big, small])) == 2 * 40_000
    assert peak(play(found.steady_step, [big, big])) == 3 * 40_000


def test_dtype_groups_are_played_last_first_and_hold_the_one_before() -> None:
    found = rule("adamw", implementation="foreach")
    mixed = [Parameter((8,), "float32"), Parameter((8,), "bfloat16")]
    allocated = [e.num_bytes for e in play(found.steady_step, mixed) if e.action == "alloc"]
    assert allocated == [16, 32]
    assert peak(play(found.steady_step, mixed)) == 48


def test_the_step_counter_is_on_the_host_unless_fused() -> None:
    places = {form: rule("adam", implementation=form).states((4,), "float32")[0] for form in ("fused", "foreach")}
    assert (places["fused"].place, places["foreach"].place) == ("device", "host")
    assert rule("adam", implementation="foreach").state_bytes((4,), "float32") == 32
    assert rule("adam", implementation="fused").state_bytes((4,), "float32") == 36


def test_paged_states_of_100_000_elements_leave_the_device() -> None:
    found = rule("paged-adamw-8bit")
    assert found.state_bytes((100_000,), "bfloat16", "managed") == 200_000
    assert found.state_bytes((100_000,), "bfloat16") == 2 * 4 * 391  # the maxima stay
    assert found.state_bytes((99_999,), "bfloat16", "managed") == 0
    assert rule("paged-adamw-8bit", "cpu").state_bytes((100_000,), "bfloat16", "managed") == 0


@pytest.mark.parametrize(("name", "moments"), [("paged-adamw", 2), ("paged-lion", 1)])
def test_paged_states_of_32_bits_leave_the_device_whole(name: str, moments: int) -> None:
    found = rule(name)
    assert found.state_bytes((320, 320), "bfloat16", "managed") == moments * 4 * 320 * 320
    assert found.state_bytes((320, 320), "bfloat16") == 0
    assert found.state_bytes((99_999,), "bfloat16") == moments * 4 * 99_999
    assert found.state_bytes((99_999,), "bfloat16", "managed") == 0
    assert rule(name, "cpu").state_bytes((320, 320), "bfloat16") == moments * 4 * 320 * 320


def test_8_bit_states_of_a_large_weight_take_two_bytes_and_a_thirty_second() -> None:
    assert rule("adamw-8bit").state_bytes((5120, 13824), "bfloat16") == 5120 * 13824 * 2.03125
    assert rule("adamw-8bit").state_bytes((4095,), "bfloat16") == 4095 * 8
    assert rule("lion-8bit").state_bytes((4096,), "bfloat16") == 4096 + 64
    assert rule("lion").state_bytes((4096,), "bfloat16") == 4096 * 4


def test_torchao_quantizes_whole_blocks_and_keeps_a_table_for_each_moment() -> None:
    numel = 5120 * 13824
    eight, four = (rule(f"torchao-adamw-{bits}bit") for bits in (8, 4))
    assert eight.state_bytes((5120, 13824), "bfloat16") == 2 * (numel + 4 * numel // 256 + 4 * 256)
    assert four.state_bytes((5120, 13824), "bfloat16") == 2 * (numel // 2 + 4 * numel // 256 + 4 * 16)
    for shape in ((4095,), (4097,), (63, 64)):
        assert eight.state_bytes(shape, "bfloat16") == four.state_bytes(shape, "bfloat16") == 2 * 2 * prod(shape)
        assert peak(play(four.steady_step, [Parameter(shape, "bfloat16")])) == 0
    assert [state.place for state in eight.states((4096,), "bfloat16")][:2] == ["host", "device"]


@pytest.mark.parametrize(
    ("bits", "device_kind", "each"), [(8, "cuda", 8), (8, "cpu", 8), (4, "cuda", 24), (4, "cpu", 26)]
)
def test_a_compiled_update_of_torchao_takes_so_many_bytes_an_element(bits: int, device_kind: str, each: int) -> None:
    found, one = rule(f"torchao-adamw-{bits}bit", device_kind), Parameter((1024, 4096), "bfloat16")
    numel = prod(one.shape)
    assert peak(play(found.steady_step, [one, one])) == each * numel + 2 * 4 * numel // 256


def test_master_weights_are_a_float32_copy_made_through_two_more() -> None:
    found = rule("adamw", master_weights=True)
    one = [Parameter((1000,), "bfloat16")]
    assert found.library == "transformer-engine"
    assert [s.name for s in found.states((1000,), "bfloat16")] == ["exp_avg", "exp_avg_sq", "master_param"]
    assert found.state_bytes((1000,), "bfloat16") == 12_000
    assert peak(play(found.first_step, one)) == 12_000 + 2_000 + 4_000
    assert list(play(found.steady_step, one)) == []


def test_float32_states_beside_16_bit_weights() -> None:
    assert rule("adamw", state_dtype="float32").state_bytes((1000,), "bfloat16") == 8_000
    assert rule("adamw", state_dtype="bfloat16").library == "torch"  # what torch does anyway
    assert rule("lion", state_dtype="float32").library == "bitsandbytes"
    assert rule("paged-adamw", state_dtype="float32").library == "bitsandbytes"


@pytest.mark.parametrize(
    ("error", "name", "device_kind", "dtype", "settings"),
    [
        (ConfigError, "rmsprop", "cuda", "float32", {"implementation": "fused"}),
        (ConfigError, "adamw-8bit", "cuda", "float32", {"implementation": "foreach"}),
        (ConfigError, "adamw", "cuda", "float32", {"momentum": 0.9}),
        (ConfigError, "adamw", "cuda", "float32", {"master_weights": True}),
        (UnsupportedError, "sgd", "cuda", "bfloat16", {"master_weights": True}),
        (UnsupportedError, "adamw", "cuda", "float32", {"state_dtype": "bfloat16"}),
        (UnsupportedError, "adamw-8bit", "cuda", "bfloat16", {"state_dtype": "float32"}),
        (UnsupportedError, "paged-adamw", "cuda", "bfloat16", {"state_dtype": "bfloat16"}),
        (UnsupportedError, "torchao-adamw-4bit", "cuda", "bfloat16", {"state_dtype": "bfloat16"}),
        (UnsupportedError, "adamw", "cuda", "bfloat16", {"state_dtype": "float32", "implementation": "foreach"}),
        (UnsupportedError, "adamw", "cpu", "bfloat16", {"state_dtype": "float32"}),
    ],
)
def test_what_no_library_does_is_refused(
    error: type[ConfigError], name: str, device_kind: str, dtype: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(error) as caught:
        rule(name, device_kind, dtype, **settings)
    assert type(caught.value) is error
    assert caught.value.hint


def test_a_rule_is_made_once() -> None:
    assert rule("adamw") is rule("adamw")


def test_clipping_writes_a_norm_for_each_chunk() -> None:
    events = clip_grad_norm_events([65_537, 10], "bfloat16", "cuda")
    assert events[0] == ("alloc", "norms_of_chunks", 2 * 2 * 4)
    left: dict[str, int] = {}
    for action, name, num_bytes in events:
        left[name] = left.get(name, 0) + (num_bytes if action == "alloc" else -num_bytes)
    assert {name: num_bytes for name, num_bytes in left.items() if num_bytes} == {"total_norm": 2}

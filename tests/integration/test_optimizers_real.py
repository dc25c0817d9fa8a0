"""What optimizer rules say, against the memory events of real optimizers on the CPU."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch

from memprof.model.scenario import Optimizer
from memprof.semantics.optimizer_program import Event, Parameter, play
from memprof.semantics.optimizers import OptimizerRule, optimizer_rule
from tests.support.memory_profile import memory_profile

SMALL = 32
"""Bytes up to which an event may be a 0-dim tensor inside one op, which rules leave out."""

SHAPES = [(50, 64), (64,), (30, 64), (64, 64), (17,), (3, 5, 16), (4096,), (63, 65), (1, 70)]
CLASSES: dict[str, Any] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adafactor": torch.optim.Adafactor,
}
FUSED = ("adamw", "adam", "sgd", "adagrad")


def cases() -> Iterator[tuple[str, str, float | None, float | None]]:
    for name in CLASSES:
        forms = ("fused", "foreach", "for-loop") if name in FUSED else ("foreach", "for-loop")
        momenta = (None, 0.9) if name in ("sgd", "rmsprop") else (None,)
        yield from itertools.product((name,), forms, momenta, (None, 0.1))


def make_parameters(dtypes: list[str]) -> list[torch.Tensor]:
    parameters = [
        torch.ones(shape, dtype=getattr(torch, dtype), requires_grad=True)
        for shape, dtype in zip(SHAPES, itertools.cycle(dtypes), strict=False)
    ]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    return parameters


def as_parameters(tensors: Iterable[torch.Tensor]) -> list[Parameter]:
    return [Parameter(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in tensors]


def measured(action: Callable[[], object]) -> list[int]:
    """Bytes allocated (positive) and freed (negative), in order, larger than a scalar's."""
    with memory_profile() as record:
        action()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if abs(e.nbytes()) > SMALL]


def predicted(events: Iterable[Event]) -> list[int]:
    signed = (e.num_bytes if e.action == "alloc" else -e.num_bytes for e in events)
    return [num_bytes for num_bytes in signed if abs(num_bytes) > SMALL]


def with_end_sorted(deltas: list[int]) -> list[int]:
    """The same events; those that free a function's variables as it returns, in no telling order, are sorted."""
    end = len(deltas)
    while end and deltas[end - 1] < 0:
        end -= 1
    return deltas[:end] + sorted(deltas[end:])


def peak(deltas: list[int]) -> int:
    return max(itertools.accumulate(deltas, initial=0))


def build(name: str, form: str, momentum: float | None, weight_decay: float | None, parameters: list[Any]) -> Any:
    options: dict[str, Any] = {"fused": True} if form == "fused" else {"foreach": form == "foreach"}
    if momentum is not None:
        options["momentum"] = momentum
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    return CLASSES[name](parameters, lr=1e-3, **options)


def rule_of(name: str, form: Any, momentum: float | None, weight_decay: float | None, dtype: str) -> OptimizerRule:
    optimizer = Optimizer(name=name, implementation=form, momentum=momentum, weight_decay=weight_decay)  # type: ignore[arg-type]
    return optimizer_rule(optimizer, "cpu", dtype)


@pytest.mark.parametrize(
    ("name", "form", "momentum", "weight_decay", "dtypes"),
    [
        (*case, dtypes)
        for case in cases()
        for dtypes in (["float32"], ["bfloat16"], ["float32", "bfloat16"])
        if case[0] != "adafactor" or dtypes == ["float32"]  # the CPU casts its 16-bit means: see the peaks below
    ],
)
def test_step_allocates_what_the_program_says(
    name: str, form: str, momentum: float | None, weight_decay: float | None, dtypes: list[str]
) -> None:
    tensors = make_parameters(dtypes)
    rule = rule_of(name, form, momentum, weight_decay, dtypes[0])
    parameters = as_parameters(tensors)
    made: list[Any] = []
    construction = measured(lambda: made.append(build(name, form, momentum, weight_decay, tensors)))
    assert construction == predicted(play(rule.construction, parameters))
    for program in (rule.first_step, rule.steady_step, rule.steady_step):
        seen, said = measured(made[0].step), predicted(play(program, parameters))
        assert with_end_sorted(seen) == with_end_sorted(said)
        assert peak(seen) == peak(said)


@pytest.mark.parametrize("dtypes", [["bfloat16"], ["float16"]], ids="-".join)
@pytest.mark.parametrize("form", ["foreach", "for-loop"])
def test_adafactor_peaks_in_16_bit_differ_by_one_cast_row_factor_at_most(form: str, dtypes: list[str]) -> None:
    tensors = make_parameters(dtypes)
    rule = rule_of("adafactor", form, None, None, dtypes[0])
    optimizer = build("adafactor", form, None, None, tensors)
    row_factor = max(4 * t.numel() // t.shape[-1] for t in tensors if t.dim() > 1)
    for program in (rule.first_step, rule.steady_step):
        seen = peak(measured(optimizer.step))
        said = peak(predicted(play(program, as_parameters(tensors))))
        assert said <= seen <= said + row_factor


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("name", "form", "momentum", "weight_decay"), list(cases()))
def test_states_are_the_real_objects_tensors(
    name: str, form: str, momentum: float | None, weight_decay: float | None, dtype: str
) -> None:
    tensors = make_parameters([dtype])
    rule = rule_of(name, form, momentum, weight_decay, dtype)
    optimizer = build(name, form, momentum, weight_decay, tensors)
    optimizer.step()
    for tensor, parameter in zip(tensors, as_parameters(tensors), strict=True):
        real = [
            (key, value.nbytes, str(value.dtype).removeprefix("torch."))
            for key, value in optimizer.state[tensor].items()
            if isinstance(value, torch.Tensor)
        ]
        assert [(s.name, s.num_bytes, s.dtype) for s in rule.states(*parameter)] == real
        assert rule.state_bytes(*parameter) == sum(num_bytes for _, num_bytes, _ in real)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_weights_gradients_and_states_of_a_real_model(model_type: str, dtype: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 99, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(model_type, **sizes, **({"intermediate_size": 100} if model_type == "llama" else {}))
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.zeros(1, 8, dtype=torch.long)
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    rule = rule_of("adamw", "auto", None, None, dtype)
    parameters = as_parameters(model.parameters())
    weights = sum(p.nbytes for p in model.parameters())
    states = [t for state in optimizer.state.values() for t in state.values()]
    assert sum(p.grad.nbytes for p in model.parameters() if p.grad is not None) == weights
    assert sum(rule.state_bytes(*p) for p in parameters) == sum(t.untyped_storage().nbytes() for t in states)
    assert sum(rule.state_bytes(*p) for p in parameters) == 2 * weights + 4 * len(parameters)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("lion", "Lion"),
        ("lion-8bit", "Lion8bit"),
        ("paged-lion", "PagedLion"),
        ("paged-lion-8bit", "PagedLion8bit"),
        ("adamw-8bit", "AdamW8bit"),
        ("paged-adamw", "PagedAdamW"),
        ("paged-adamw-8bit", "PagedAdamW8bit"),
    ],
)
def test_bitsandbytes_states_are_the_real_objects_tensors(name: str, class_name: str, dtype: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # paging falls back on the CPU, with a warning
        import bitsandbytes

        pageable = torch.ones(320, 320, dtype=getattr(torch, dtype), requires_grad=True)
        pageable.grad = torch.ones_like(pageable)
        tensors = [*make_parameters([dtype]), pageable]
        optimizer = getattr(bitsandbytes.optim, class_name)(tensors, lr=1e-3)
        optimizer.step()
    rule = optimizer_rule(Optimizer(name=name), "cpu", dtype)  # type: ignore[arg-type]
    shared: dict[int, torch.Tensor] = {}
    for tensor, parameter in zip(tensors, as_parameters(tensors), strict=True):
        state = {key: value for key, value in optimizer.state[tensor].items() if isinstance(value, torch.Tensor)}
        shared |= {value.data_ptr(): value for key, value in state.items() if key.startswith("qmap")}
        real = [(key, value.nbytes) for key, value in state.items() if not key.startswith("qmap")]
        assert [(s.name, s.num_bytes) for s in rule.states(*parameter)] == real
    tables = rule.shared(tuple(tuple(t.shape) for t in tensors))
    assert sorted(t.num_bytes for t in tables) == sorted(t.nbytes for t in shared.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("lion", "Lion"),
        ("lion-8bit", "Lion8bit"),
        ("adamw-8bit", "AdamW8bit"),
        ("paged-adamw", "PagedAdamW"),
        ("paged-lion", "PagedLion"),
    ],
)
def test_bitsandbytes_updates_on_the_cpu_peak_as_the_program_says(name: str, class_name: str, dtype: str) -> None:
    import bitsandbytes

    tensors = make_parameters([dtype])
    optimizer = getattr(bitsandbytes.optim, class_name)(tensors, lr=1e-3)
    rule = optimizer_rule(Optimizer(name=name), "cpu", dtype)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # paging falls back on the CPU, with a warning
        optimizer.step()
    said = predicted(play(rule.steady_step, as_parameters(tensors)))
    assert peak(measured(optimizer.step)) == peak(said) > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_float32_states_beside_16_bit_weights_are_what_a_32_bit_library_keeps(dtype: str) -> None:
    import bitsandbytes

    tensors = make_parameters([dtype])
    optimizer = bitsandbytes.optim.AdamW(tensors, optim_bits=32)
    optimizer.step()
    rule = optimizer_rule(Optimizer(state_dtype="float32"), "cuda", dtype)
    for tensor, parameter in zip(tensors, as_parameters(tensors), strict=True):
        real = sum(v.nbytes for v in optimizer.state[tensor].values() if isinstance(v, torch.Tensor))
        assert rule.state_bytes(*parameter) == real == 8 * tensor.numel()


def test_clipping_allocates_what_the_rule_says() -> None:
    from memprof.semantics.clipping import clip_grad_norm_events

    count = 40  # so that the stack of norms is larger than a scalar's temporaries
    tensors = [torch.ones(10, requires_grad=True) for _ in range(count)]
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    seen = measured(lambda: torch.nn.utils.clip_grad_norm_(tensors, 1.0))
    events = clip_grad_norm_events([10] * count, "float32", "cpu")
    stack = [e.num_bytes if e.action == "alloc" else -e.num_bytes for e in events if e.num_bytes > SMALL]
    assert seen == stack == [4 * count, -4 * count]

"""Random scenarios over the catalog, for hypothesis."""

from __future__ import annotations

import operator
from functools import cache
from typing import Any, get_args

import msgspec
from hypothesis import strategies as st

from memprof.analytic.engine import Played, knows, play
from memprof.catalog import names
from memprof.catalog.device_catalog import device, device_names
from memprof.catalog.resolve import resolve
from memprof.engines import resolved
from memprof.errors import MemprofError
from memprof.model import consistency
from memprof.model.architecture import Architecture
from memprof.model.decode import decode
from memprof.model.scenario import OptimizerName, Scenario
from memprof.semantics.device import semantics_for


@cache
def model_names() -> tuple[str, ...]:
    """The models whose program the analytic engine has, smallest first."""
    known = [entry.name for entry in names.entries() if knows(entry.config["model_type"])]
    return tuple(sorted(known, key=lambda name: architecture(name).num_parameters))


@cache
def architecture(name: str) -> Architecture:
    return resolve(name)


def played(scenario: Scenario) -> Played:
    """The scenario's step, without the allocator.

    Raises:
        MemprofError: as ``api.estimate``.
    """
    consistency.check(scenario)
    semantics = semantics_for(device(scenario.device), scenario.software)
    model = architecture(scenario.model)
    return play(model, resolved(scenario, model, semantics), semantics)


def can_be(scenario: Scenario) -> bool:
    """Whether it is answered, and not refused in one line."""
    try:
        played(scenario)
    except MemprofError:
        return False
    return True


def change(scenario: Scenario, **changes: Any) -> Scenario:
    """The scenario with some fields changed; ``batch`` and ``parallelism`` take the changes of their own fields."""
    parts = {
        name: msgspec.structs.replace(getattr(scenario, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return msgspec.structs.replace(scenario, **parts)


_QUANTIZATION = st.sampled_from(("int8", "nf4", "nf4-double", "fp4"))
_ADAPTERS = st.fixed_dictionaries({"rank": st.integers(1, 64), "dropout": st.sampled_from((0.0, 0.1))})
_OPTIMIZERS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(get_args(OptimizerName)),
        "implementation": st.sampled_from(("auto", "fused", "foreach", "for-loop")),
    },
    optional={"weight_decay": st.sampled_from((0.0, 0.1)), "state_dtype": st.sampled_from(("float32", "bfloat16"))},
)  # fmt: skip
_WORLD = st.integers(2, 64)
_PARALLELISM = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"strategy": st.sampled_from(("ddp", "zero1", "zero2", "zero3", "fsdp")), "data": _WORLD}),
    st.fixed_dictionaries({"strategy": st.just("hsdp"), "data": _WORLD, "replicate": st.integers(2, 4)}),
)
_COMMON: dict[str, st.SearchStrategy[Any]] = {
    "model": st.deferred(lambda: st.sampled_from(model_names())),
    "device": st.sampled_from(device_names()),
    "precision": st.sampled_from(("fp32", "bf16", "fp16", "bf16-mixed", "fp16-mixed")),
    "attention": st.one_of(
        st.sampled_from(("sdpa", "eager")), st.sampled_from(("sdpa", "sdpa-math", "sdpa-efficient", "sdpa-flash"))
    ),
}
_LENGTHS = st.one_of(st.integers(2, 256), st.sampled_from((512, 1000, 1024, 2048, 4096)))

_TRAINING = st.fixed_dictionaries(
    _COMMON
    | {
        "batch": st.fixed_dictionaries(
            {"micro_batch_size": st.integers(1, 9), "sequence_length": _LENGTHS},
            optional={"gradient_accumulation_steps": st.integers(1, 3)},
        ),
        "optimizer": _OPTIMIZERS,
        "checkpointing": st.sampled_from(("none", "full")),
        "parallelism": _PARALLELISM,
        "loop": st.fixed_dictionaries(
            {},
            optional={
                "zero_grad": st.sampled_from(("after_step", "start")),
                "dropout": st.sampled_from((0.0, 0.1)),
                "clip_grad_norm": st.just(1.0),
                "keep_outputs": st.booleans(),
            },
        ),
    }
)
TRAINING = st.one_of(
    _TRAINING,
    st.builds(operator.or_, _TRAINING, st.fixed_dictionaries({"adapter": _ADAPTERS})),
    st.builds(operator.or_, _TRAINING, st.fixed_dictionaries({"adapter": _ADAPTERS, "quantization": _QUANTIZATION})),
).map(decode)

INFERENCE = st.fixed_dictionaries(
    _COMMON
    | {
        "mode": st.just("inference"),
        "quantization": st.one_of(st.none(), _QUANTIZATION),
        "batch": st.fixed_dictionaries(
            {"micro_batch_size": st.integers(1, 9), "sequence_length": _LENGTHS},
            optional={"new_tokens": st.integers(1, 200)},
        ),
    }
).map(decode)

ANY = st.one_of(TRAINING, TRAINING, INFERENCE)

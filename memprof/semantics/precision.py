"""Precision x strategy: which tensor has which dtype, and which of them are sharded; one row a rule, with its source.

``fsdp`` and ``hsdp`` mean torch's ``fully_shard`` with a MixedPrecisionPolicy, as torchtitan uses it; what accelerate
adds to that is in ``ACCELERATE``. ``zero1`` to ``zero3`` mean DeepSpeed, whose ``bf16.enabled`` and ``fp16.enabled``
are the mixed precisions here: 16-bit weights and gradients, fp32 masters and states, no autocast. In a pure
precision they still keep a second copy of their partition. Pure fp16 has no row there: DeepSpeed allows it
with CPU offload alone.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from memprof.errors import UnsupportedError
from memprof.model.scenario import Precision, Strategy

Library = Literal["torch", "fully_shard", "deepspeed"]

_AMP = "https://docs.pytorch.org/docs/stable/amp.html (weights and gradients stay float32, ops cast)"
_PURE = "torch 2.13 wheel: torch/optim/adamw.py (states are zeros_like the parameter; gradients have its dtype)"
_SHARD = "torch 2.13 wheel: torch/distributed/fsdp/_fully_shard/_fsdp_param.py, init_dtype_attrs"
_TITAN = (
    "https://github.com/pytorch/torchtitan/blob/1a618d1d/torchtitan/config/configs.py "
    "(mixed_precision_param bfloat16, mixed_precision_reduce float32)"
)
_ACCELERATE = "accelerate 1.15: utils/dataclasses.py, set_mixed_precision (param, reduce and output in one dtype)"
_DEEPSPEED = "https://github.com/deepspeedai/DeepSpeed/blob/edaa7221/deepspeed/runtime/"
_MASTERS = _DEEPSPEED + "base_optimizer.py, _configure_master_weights"
_MODEL_DTYPE = _DEEPSPEED + "engine.py, get_data_types and communication_data_type"


class Dtypes(msgspec.Struct, frozen=True):
    """One row of the table.

    Attributes:
        weights: resident weights (each rank's shard where they are sharded).
        compute: matrix multiplications.
        gradient: what autograd hands over for a parameter.
        reduced: the gradient that is kept for the optimizer.
        master: a copy that the optimizer updates instead of the weights, or None.
        states: moments of a full-precision optimizer, unless the scenario names ``optimizer.state_dtype``.
        gather: what weights are all-gathered in, and the unsharded weights' dtype.
        reduce: what gradients are reduced over ranks in.
        autocast: whether the forward runs under torch.autocast, with its weight-cast cache.
        scaler: who scales the loss.
        source: where this is said.
    """

    weights: str
    compute: str
    gradient: str
    reduced: str
    master: str | None
    states: str
    gather: str
    reduce: str
    autocast: bool
    scaler: Literal["torch", "deepspeed"] | None
    source: str


class Plan(Dtypes, frozen=True):
    """A row under a strategy. Masters are sharded where states are; at world size one nothing is."""

    weights_sharded: bool
    gradients_sharded: bool
    states_sharded: bool


def _uniform(dtype: str, source: str, master: str | None = None) -> Dtypes:
    return Dtypes(dtype, dtype, dtype, dtype, master, dtype, dtype, dtype, False, None, source)


F32, B16, F16 = "float32", "bfloat16", "float16"
_ROWS: dict[tuple[Precision, Library], Dtypes] = {
    ("fp32", "torch"): _uniform(F32, _PURE),
    ("bf16", "torch"): _uniform(B16, _PURE),
    ("fp16", "torch"): _uniform(F16, _PURE),
    #                               weights compute grad reduced master states gather reduce autocast scaler
    ("bf16-mixed", "torch"): Dtypes(F32, B16, F32, F32, None, F32, F32, F32, True, None, _AMP),
    ("fp16-mixed", "torch"): Dtypes(F32, F16, F32, F32, None, F32, F32, F32, True, "torch", _AMP),
    ("fp32", "fully_shard"): _uniform(F32, _SHARD),
    ("bf16", "fully_shard"): _uniform(B16, _SHARD),
    ("fp16", "fully_shard"): _uniform(F16, _SHARD),
    ("bf16-mixed", "fully_shard"): Dtypes(F32, B16, B16, F32, None, F32, B16, F32, False, None, _TITAN),
    ("fp16-mixed", "fully_shard"): Dtypes(F32, F16, F16, F32, None, F32, F16, F16, False, "torch", _ACCELERATE),
    ("fp32", "deepspeed"): _uniform(F32, _MASTERS, master=F32),
    ("bf16", "deepspeed"): _uniform(B16, _MASTERS, master=B16),
    ("bf16-mixed", "deepspeed"): Dtypes(B16, B16, B16, B16, F32, F32, B16, B16, False, None, _MODEL_DTYPE),
    ("fp16-mixed", "deepspeed"): Dtypes(F16, F16, F16, F16, F32, F32, F16, F16, False, "deepspeed", _MODEL_DTYPE),
}

ACCELERATE: dict[Precision, Dtypes] = {
    "bf16-mixed": Dtypes(F32, B16, B16, F32, None, F32, B16, B16, True, None, _ACCELERATE),
    "fp16-mixed": Dtypes(F32, F16, F16, F32, None, F32, F16, F16, True, "torch", _ACCELERATE),
}
"""``fully_shard`` under accelerate with ``mixed_precision``: trainable weights are upcast to float32, gradients reduced
in 16 bit, and the forward runs under autocast with its outputs cast to float32.

Source: accelerate 1.15: utils/fsdp_utils.py, fsdp2_prepare_model; accelerator.py, prepare_model.
"""

_LIBRARY: dict[Strategy, Library] = {
    "none": "torch", "ddp": "torch", "fsdp": "fully_shard", "hsdp": "fully_shard",
    "zero1": "deepspeed", "zero2": "deepspeed", "zero3": "deepspeed",
}  # fmt: skip
_SHARDS_WEIGHTS = frozenset(("zero3", "fsdp", "hsdp"))
_SHARDS_GRADIENTS = _SHARDS_WEIGHTS | {"zero2"}
_SHARDS_STATES = _SHARDS_GRADIENTS | {"zero1"}


PLANS: dict[tuple[Precision, Strategy], Plan] = {
    (precision, strategy): Plan(
        **msgspec.structs.asdict(row),
        weights_sharded=strategy in _SHARDS_WEIGHTS,
        gradients_sharded=strategy in _SHARDS_GRADIENTS,
        states_sharded=strategy in _SHARDS_STATES,
    )
    for (precision, library), row in _ROWS.items()
    for strategy, runs in _LIBRARY.items()
    if runs == library
}


def plan(precision: Precision, strategy: Strategy) -> Plan:
    """The row for a pair.

    Raises:
        UnsupportedError: pure fp16 under ZeRO.
    """
    try:
        return PLANS[precision, strategy]
    except KeyError:
        raise UnsupportedError(
            f"precision {precision} with {strategy}: DeepSpeed keeps fp16 masters on the CPU alone",
            "use fp16-mixed or bf16",
        ) from None

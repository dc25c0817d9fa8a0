"""Which optimizer a scenario means, what it keeps for each parameter, and the program of its step.

Real objects behind the names: ``torch.optim`` for adamw, adam, sgd, adafactor, adagrad and rmsprop (Trainer's own
Adafactor keeps as much but has larger temporaries); torchao for the names that say so; bitsandbytes for lion and all
other 8-bit and paged names; Transformer Engine's ``FusedAdam`` for adam(w) with float32 states or master weights beside
16-bit weights, which ``torch.optim`` cannot have.

``implementation: auto`` is what people run: for adamw the fused kernel, Trainer's default (``adamw_torch_fused``); for
the rest what ``torch.optim`` picks when asked for nothing - foreach on an accelerator, for-loop on the CPU, and
for-loop everywhere for Adafactor.
Source: transformers 5.23 wheel: training_args.py (``default_optim``); torch 2.13 wheel: optim/optimizer.py
(``_default_to_fused_or_foreach``), optim/_adafactor.py (note on ``foreach``).
"""

from __future__ import annotations

from functools import cache

import msgspec

from memprof.errors import ConfigError, UnsupportedError
from memprof.model.scenario import Optimizer
from memprof.semantics import optimizer_bitsandbytes as bitsandbytes
from memprof.semantics import optimizer_torch as torch_optim
from memprof.semantics import optimizer_torchao as torchao
from memprof.semantics.optimizer_program import Block, Place, Program, Shape

_FORMS: dict[str, tuple[str, ...]] = {
    "adamw": ("fused", "foreach", "for-loop"),
    "adam": ("fused", "foreach", "for-loop"),
    "sgd": ("fused", "foreach", "for-loop"),
    "adagrad": ("fused", "foreach", "for-loop"),
    "rmsprop": ("foreach", "for-loop"),
    "adafactor": ("foreach", "for-loop"),
}
_BITSANDBYTES = {
    "lion": bitsandbytes.Kind(("state1",), eight_bit=False, paged=False),
    "paged-lion": bitsandbytes.Kind(("state1",), eight_bit=False, paged=True),
    "paged-adamw": bitsandbytes.Kind(("state1", "state2"), eight_bit=False, paged=True),
    "lion-8bit": bitsandbytes.Kind(("state1",), eight_bit=True, paged=False),
    "paged-lion-8bit": bitsandbytes.Kind(("state1",), eight_bit=True, paged=True),
    "adamw-8bit": bitsandbytes.Kind(("state1", "state2"), eight_bit=True, paged=False),
    "paged-adamw-8bit": bitsandbytes.Kind(("state1", "state2"), eight_bit=True, paged=True),
}
TORCHAO: dict[str, torchao.Bits] = {"torchao-adamw-8bit": 8, "torchao-adamw-4bit": 4}
_MOMENTUM = ("sgd", "rmsprop")


class State(msgspec.Struct, frozen=True):
    """One tensor that an optimizer keeps for a parameter."""

    name: str
    num_bytes: int
    dtype: str
    place: Place


class OptimizerRule(msgspec.Struct, frozen=True):
    """An optimizer as memprof plays it.

    Attributes:
        name, implementation: as in the scenario, ``auto`` resolved (``fused`` for bitsandbytes' and torchao's).
        library: whose class it is: ``torch``, ``bitsandbytes``, ``torchao`` or ``transformer-engine``.
        blocks: what it keeps per parameter, in creation order.
        construction, first_step, steady_step: programs; states are made in the first two only. Temporaries of a few
            bytes (a 0-dim tensor inside one op) are left out.
        scales_gradients: ``GradScaler.step`` hands it ``grad_scale`` and ``found_inf``, so it does not unscale before.
    """

    name: str
    implementation: str
    library: str
    blocks: tuple[Block, ...]
    construction: Program
    first_step: Program
    steady_step: Program
    scales_gradients: bool = False

    def states(self, shape: Shape, dtype: str) -> tuple[State, ...]:
        """What is kept for one parameter, in creation order; a shared tensor is not any parameter's, see ``shared``."""
        return tuple(
            State(block.name, num_bytes, block.dtype or dtype, block.place)
            for block in self.blocks
            if not block.shared and (num_bytes := block.num_bytes(shape, dtype))
        )

    def state_bytes(self, shape: Shape, dtype: str, place: Place = "device") -> int:
        """Bytes kept for one parameter at a place; shared tensors excluded."""
        return sum(state.num_bytes for state in self.states(shape, dtype) if state.place == place)

    def shared(self, shapes: tuple[Shape, ...]) -> tuple[State, ...]:
        """Tensors that exist once when any of these parameters needs them (bitsandbytes' code tables)."""
        return tuple(
            State(block.name, num_bytes, block.dtype, block.place)
            for block in self.blocks
            if block.shared and block.dtype and (num_bytes := max(block.num_bytes(s, block.dtype) for s in shapes))
        )


@cache
def optimizer_rule(optimizer: Optimizer, device_kind: str, weight_dtype: str) -> OptimizerRule:
    """The rule for a scenario's optimizer over weights of ``weight_dtype`` on a ``cuda``, ``rocm`` or ``cpu`` device.

    Raises:
        ConfigError: the named optimizer has no such implementation, or no momentum.
        UnsupportedError: state dtype or master weights that no known library keeps.
    """
    name = optimizer.name
    if optimizer.momentum and name not in _MOMENTUM:
        raise ConfigError(f"optimizer.momentum is not a setting of {name}", "leave it out, or use sgd or rmsprop")
    implementation = resolve_implementation(optimizer, device_kind)
    if optimizer.master_weights or _wants_other_states(optimizer, weight_dtype):
        return _beside_16_bit(optimizer, implementation, device_kind, weight_dtype)
    if name in _BITSANDBYTES:
        programs = bitsandbytes.programs(_BITSANDBYTES[name], device_kind)
        return OptimizerRule(name, implementation, "bitsandbytes", *programs)
    if name in TORCHAO:
        return OptimizerRule(name, implementation, "torchao", *torchao.programs(TORCHAO[name], device_kind))
    programs = torch_optim.programs(
        name, implementation, device_kind, bool(optimizer.momentum), bool(_weight_decay(optimizer))
    )
    return OptimizerRule(name, implementation, "torch", *programs, scales_gradients=implementation == "fused")


def resolve_implementation(optimizer: Optimizer, device_kind: str) -> str:
    """``fused``, ``foreach`` or ``for-loop``; see the module for what ``auto`` means.

    Raises:
        ConfigError: the optimizer has no such implementation.
    """
    name, asked = optimizer.name, optimizer.implementation
    forms = _FORMS.get(name, ("fused",))
    if asked != "auto":
        if asked not in forms:
            raise ConfigError(
                f"optimizer.implementation {asked} does not exist for {name}", f"choose auto or {' or '.join(forms)}"
            )
        return asked
    if name == "adamw" or name not in _FORMS:
        return "fused"
    return "for-loop" if name == "adafactor" or device_kind == "cpu" else "foreach"


def warnings(optimizer: Optimizer, device_kind: str) -> list[str]:
    """What is not known of an optimizer's step."""
    return torchao.warnings(device_kind) if optimizer.name in TORCHAO else []


def _weight_decay(optimizer: Optimizer) -> float:
    if optimizer.weight_decay is not None:
        return optimizer.weight_decay
    return 0.01 if optimizer.name == "adamw" else 0.0


def _wants_other_states(optimizer: Optimizer, weight_dtype: str) -> bool:
    if optimizer.state_dtype is None:
        return False
    kind = _BITSANDBYTES.get(optimizer.name)
    if optimizer.name in TORCHAO or (kind is not None and kind.eight_bit):
        return True
    return optimizer.state_dtype != (weight_dtype if kind is None else "float32")


def _beside_16_bit(optimizer: Optimizer, implementation: str, device_kind: str, weight_dtype: str) -> OptimizerRule:
    """Transformer Engine's FusedAdam: float32 states, and master weights if asked, whatever the weights' dtype."""
    wanted = "master weights" if optimizer.master_weights else f"{optimizer.state_dtype} states"
    if optimizer.name not in ("adam", "adamw") or optimizer.state_dtype not in (None, "float32"):
        raise UnsupportedError(
            f"no known library keeps {wanted} for {optimizer.name} over {weight_dtype} weights",
            "float32 states and master weights exist for adam and adamw; leave optimizer.state_dtype out",
        )
    if implementation != "fused" and optimizer.implementation != "auto":
        raise UnsupportedError(
            f"{wanted} beside {weight_dtype} weights exist only in a fused adam(w)",
            "leave optimizer.implementation at auto",
        )
    if device_kind == "cpu":
        raise UnsupportedError(
            f"a fused adam(w) with {wanted} beside {weight_dtype} weights runs on CUDA only", "choose a GPU"
        )
    if weight_dtype == "float32":
        raise ConfigError(
            "optimizer.master_weights needs 16-bit weights, these are float32", "set precision: bf16 or fp16"
        )
    programs = torch_optim.transformer_engine(bool(optimizer.master_weights))
    return OptimizerRule(optimizer.name, "fused", "transformer-engine", *programs)

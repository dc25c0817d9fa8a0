"""The figures that statements are about, of a run or of two beside each other, measured or predicted alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from memprof.model.evidence import Measurement, Prediction

Figure = Literal[
    "peak", "activations_saved", "optimizer_states", "bytes_a_parameter", "more_time", "more_speed", "copies"
]


class Seen(NamedTuple):
    """What a run or a prediction of it says; None where it does not.

    Attributes:
        peak_bytes: highest requested bytes.
        activation_bytes: what a forward has at its highest beyond what was loaded; of plain SGD these are activations.
        state_bytes: of the optimizer.
        step_s: seconds of a step.
        num_parameters: of the model.
        copies: of the weights in host memory while they are loaded.
    """

    peak_bytes: float | None = None
    activation_bytes: float | None = None
    state_bytes: float | None = None
    step_s: float | None = None
    num_parameters: float | None = None
    copies: float | None = None


def seen(told: Measurement | Prediction, num_parameters: int | None) -> Seen:
    """A measurement or a prediction in the words of this module; predictions say nothing of time."""
    forward, load = (told.phase_peak_bytes.get(phase) for phase in ("forward", "load"))
    return Seen(
        peak_bytes=told.peak_requested_bytes,
        activation_bytes=None if forward is None or load is None else forward - load,
        state_bytes=told.component_bytes.get("optimizer_states"),
        step_s=told.step_s if isinstance(told, Measurement) else None,
        num_parameters=num_parameters,
    )


def figure(name: Figure, after: Seen, before: Seen | None) -> float | None:
    """Its value; None where something that it needs is not known."""
    if before is None:
        if name == "copies":
            return after.copies
        return _quotient(after.peak_bytes, after.num_parameters)
    return _OF_TWO[name](after, before)


def _quotient(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _less_one(ratio: float | None) -> float | None:
    return None if ratio is None else ratio - 1


def _saved(ratio: float | None) -> float | None:
    return None if ratio is None else 1 - ratio


_OF_TWO: dict[str, Callable[[Seen, Seen], float | None]] = {
    "peak": lambda after, before: _quotient(after.peak_bytes, before.peak_bytes),
    "activations_saved": lambda after, before: _saved(_quotient(after.activation_bytes, before.activation_bytes)),
    "optimizer_states": lambda after, before: _quotient(after.state_bytes, before.state_bytes),
    "more_time": lambda after, before: _less_one(_quotient(after.step_s, before.step_s)),
    "more_speed": lambda after, before: _less_one(_quotient(before.step_s, after.step_s)),
}

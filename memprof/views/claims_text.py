"""Statements put to the test, on a screen: said, predicted, measured, and the verdict in words."""

from __future__ import annotations

from collections.abc import Iterator

from memprof.model.claims import Claims, Range, Tested
from memprof.views import table
from memprof.views.terminal import Terminal

_HEADER = ("said", "of", "said to be", "predicted", "measured", "verdict")
_NAMES = {
    "peak": "peak memory, after / before",
    "activations_saved": "activations saved",
    "optimizer_states": "optimizer states, after / before",
    "bytes_a_parameter": "bytes for each parameter",
    "more_time": "more time for a step",
    "more_speed": "more steps in the same time",
    "copies": "copies of the weights in host memory",
}
_SHARES = ("activations_saved", "more_time", "more_speed")


def answer(claims: Claims) -> str:
    """The first line: how many hold."""
    verdicts = [tested.verdict for tested in claims.tested]
    counts = [f"{verdicts.count(verdict)} {words}" for verdict, words in _COUNTED.items() if verdict in verdicts]
    return (
        f"{len(verdicts)} figures of {len({tested.claim for tested in claims.tested})} statements: {', '.join(counts)}"
    )


def render(claims: Claims, terminal: Terminal) -> str:
    """The answer, then a row for each figure, and why some are not shown."""
    rows = table.render(_HEADER, _rows(claims), terminal, numbers=(2, 3, 4))
    notes = dict.fromkeys(tested.why for tested in claims.tested if tested.why)
    return f"{answer(claims)}, on {claims.device}\n\n{rows}" + "".join(f"\n{note}\n" for note in notes)


def _rows(claims: Claims) -> Iterator[tuple[str, ...]]:
    before = ""
    for tested in claims.tested:
        yield (
            tested.claim if tested.claim != before else "",
            _NAMES[tested.figure],
            _range(tested.said, tested.figure),
            _value(tested.predicted, tested.figure),
            _value(tested.measured, tested.figure),
            in_words(tested),
        )
        before = tested.claim


def in_words(tested: Tested) -> str:
    """``does not hold: 0.97, not 0.45 to 0.55; as predicted``."""
    if tested.measured is None:
        return tested.verdict
    words: str = tested.verdict
    if tested.verdict == "does not hold":
        words += f": {_value(tested.measured, tested.figure)}, not {_range(tested.said, tested.figure)}"
    if tested.predicted is not None and (tested.predicted in tested.said) == (tested.measured in tested.said):
        words += "; as predicted"
    return words


_COUNTED = {"holds": "hold", "does not hold": "do not hold", "not shown": "are not shown"}


def _value(value: float | None, figure: str) -> str:
    if value is None:
        return "-"
    return f"{value:.0%}" if figure in _SHARES else f"{value:.2f}"


def _range(said: Range, figure: str) -> str:
    low, high = (_value(end, figure) for end in (said.low, said.high))
    if said.low is None:
        return f"at most {high}"
    return f"at least {low}" if said.high is None else f"{low} to {high}"

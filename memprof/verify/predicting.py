"""One prediction in a process of its own: ``python -m memprof.verify.predicting REQUEST ANSWER``.

The trace engine runs the user's own model, which may crash or hang.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from memprof import __version__, api
from memprof.errors import MemprofError
from memprof.measure import lifeline
from memprof.model.evidence import Prediction
from memprof.model.scenario import Scenario
from memprof.verify.process import answered


class Question(msgspec.Struct, frozen=True):
    """What to predict, and who is to do it."""

    scenario: Scenario
    engine: str


def main() -> None:
    """Reads the question, predicts, writes the answer."""
    lifeline.hold()
    question = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Question)
    answered(Path(sys.argv[2]), msgspec.json.encode(predict(question.scenario, question.engine)))


def predict(scenario: Scenario, engine: str) -> Prediction:
    """What an engine says today, or why it does not."""
    try:
        result = api.estimate(scenario, engine=engine)
    except MemprofError as error:
        return Prediction(memprof_version=__version__, refused=str(error))
    return Prediction(
        memprof_version=__version__,
        peak_requested_bytes=result.peak.requested_bytes,
        peak_allocated_bytes=result.peak.allocated_bytes,
        peak_reserved_bytes=result.peak.reserved_bytes,
        device_bytes=result.peak.device_bytes,
        phase_peak_bytes=result.phase_peak_bytes,
        component_bytes=result.persistent_bytes,
        status=result.verdict.status,
    )


if __name__ == "__main__":
    main()

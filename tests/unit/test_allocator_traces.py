from __future__ import annotations

import pytest

from memprof.allocator.rules import RULES
from tests.support.allocator_traces import TRACES, Trace


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.__name__)
def test_trace_worked_by_hand(trace: Trace) -> None:
    trace(RULES)

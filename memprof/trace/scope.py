"""What a scenario can say and the trace engine does not run."""

from __future__ import annotations

from memprof.errors import UnsupportedError
from memprof.model.scenario import Scenario


def refuse_untraced(scenario: Scenario) -> None:
    """One error for each thing that a scenario can say and this engine does not run.

    Raises:
        UnsupportedError: always says which field, and what to do.
    """
    strategy = scenario.parallelism.strategy
    if strategy.startswith("zero"):
        raise UnsupportedError("the trace engine does not trace DeepSpeed's ZeRO", "use --engine analytic")
    refused = {
        "compile": scenario.compile is not None,
        "offload": bool(scenario.offload),
        "loss fused": scenario.loss == "fused",
        "parallelism.pipeline > 1": scenario.parallelism.pipeline > 1,
        "parallelism.context > 1": scenario.parallelism.context > 1,
        "parallelism.expert > 1": scenario.parallelism.expert > 1,
    }
    for what, is_asked in refused.items():
        if is_asked:
            raise UnsupportedError(f"the trace engine does not run {what}", "leave it out")

"""DeepSpeed's engine around a real model: ZeRO 1, 2 and 3.

The engine updates, clips and clears by itself, so its loop leaves these steps of the plain one out. Each micro-step
ends with ``engine.step()``, which does nothing until the last of them, as DeepSpeed's users write it.

Source: https://www.deepspeed.ai/docs/config-json/; DeepSpeed 0.19.8: deepspeed/__init__.py (initialize),
runtime/engine.py, runtime/precision_config.py (bf16_master_weights_and_grads, bf16_optimizer_states).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import msgspec

from memprof.errors import ConfigError
from memprof.model.scenario import Scenario, Strategy
from memprof.model.timeline import Phase
from memprof.semantics.zero import resolved
from memprof.workload.loop import TrainingLoop
from memprof.workload.workload import Workload

STAGES: dict[Strategy, int] = {"zero1": 1, "zero2": 2, "zero3": 3}
_STAGE_3 = {"prefetch_bucket_size", "param_persistence_threshold", "max_live_parameters", "max_reuse_distance"}
_PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}},
    "bf16-mixed": {"bf16": {"enabled": True}},
    "fp16-mixed": {"fp16": {"enabled": True}},
}


def config(scenario: Scenario, hidden_size: int | None) -> dict[str, Any]:
    """The DeepSpeed config that a scenario stands for, of a model with such a hidden size."""
    zero = msgspec.to_builtins(resolved(scenario.parallelism.zero, hidden_size))
    return {
        "train_micro_batch_size_per_gpu": scenario.batch.micro_batch_size,
        "gradient_accumulation_steps": scenario.batch.gradient_accumulation_steps,
        "gradient_clipping": scenario.loop.clip_grad_norm or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": STAGES[scenario.parallelism.strategy],
            **{f"stage3_{name}" if name in _STAGE_3 else name: value for name, value in zero.items()},
        },
        **_PRECISIONS[scenario.precision],
    }


def refuse_without_deepspeed() -> None:
    """Nothing where DeepSpeed is installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("deepspeed") is None:
        raise ConfigError("ZeRO is DeepSpeed's, which is not installed", "pip install deepspeed")


class ZeroLoop(TrainingLoop):
    """As ``TrainingLoop``, over what ``initialized`` makes of a workload and its optimizer."""

    @property
    def engine(self) -> Any:
        return self.workload.model

    def _micro_step(self, batch: Mapping[str, Any] | tuple[Any, ...]) -> None:
        super()._micro_step(batch)
        if self.engine.is_gradient_accumulation_boundary():
            self.watcher.phase(Phase.OPTIMIZER)
        self.engine.step()

    def _backward(self, loss: Any) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)  # the loop has divided it already

    def _update(self) -> None:
        """Done with the last micro-step."""


def initialized(workload: Workload, optimizer: Any, scenario: Scenario) -> tuple[Workload, Any]:
    """The workload with DeepSpeed's engine for a model, over the process group that is open, and its optimizer."""
    os.environ["DS_ACCELERATOR"] = "cpu" if scenario.device == "cpu" else "cuda"
    import deepspeed

    if scenario.device == "cpu":
        deepspeed.ops.__compatible_ops__ = {}  # or it compiles a collective of its own, which ZeRO does not use

    model = workload.model
    text = model.config.get_text_config() if hasattr(model, "config") else None
    settings = config(scenario, getattr(text, "hidden_size", None))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    return replace(workload, model=engine), engine.optimizer

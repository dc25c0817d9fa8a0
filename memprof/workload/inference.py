"""Inference: the prompt's forward, then new tokens one at a time, by the library's greedy ``generate``.

Without ``batch.new_tokens`` it is two calls of the model with a cache, one over the prompt and one over one more token;
a model without a cache is called once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from memprof.errors import UnsupportedError
from memprof.model.scenario import Scenario
from memprof.model.timeline import Phase
from memprof.semantics.precision import plan
from memprof.workload.loop import Watcher
from memprof.workload.workload import Workload


class InferenceLoop:
    """Answers one prompt at a time; nothing of it is kept.

    Attributes:
        optimizer, scaler: none, where a ``TrainingLoop`` has them.
    """

    optimizer = scaler = None

    def __init__(
        self,
        workload: Workload,
        scenario: Scenario,
        watcher: Watcher,
        autocast: Callable[[str], AbstractContextManager[Any]],
    ) -> None:
        rows = plan(scenario.precision, scenario.parallelism.strategy)
        self.workload, self.watcher = workload, watcher
        self.new_tokens = scenario.batch.new_tokens
        self.autocast = lambda: autocast(rows.compute) if rows.autocast else nullcontext()

    def step(self, batch: Mapping[str, Any] | tuple[Any, ...]) -> None:
        """One prompt."""
        import torch

        self.watcher.phase(Phase.PREFILL)
        with torch.no_grad():
            if self.new_tokens is not None:
                self._generate(batch)
            elif self._has_cache:
                self._two_calls(batch)
            else:
                with self.autocast():
                    self.workload.forward(batch)

    @property
    def _has_cache(self) -> bool:
        model = self.workload.model
        asked = inspect.signature(model.forward).parameters
        return "use_cache" in asked and "past_key_values" in asked and not model.config.is_encoder_decoder

    def _two_calls(self, batch: Any) -> None:
        model = self.workload.model
        with self.autocast():
            outputs = model(**batch, use_cache=True)
        cache = outputs.past_key_values
        del outputs
        self.watcher.phase(Phase.DECODE)
        token = batch["input_ids"].new_zeros((len(batch["input_ids"]), 1))
        with self.autocast():
            model(input_ids=token, past_key_values=cache, use_cache=True)

    def _generate(self, batch: Any) -> None:
        model = self.workload.model
        if not hasattr(model, "generate"):
            raise UnsupportedError(
                f"{type(model).__name__} does not generate", "leave out batch.new_tokens for one forward"
            )
        model.generation_config.eos_token_id = None  # so that as many tokens come as were asked for
        calls = 0

        def entered(*_: object) -> None:
            nonlocal calls
            self.watcher.phase(Phase.PREFILL if calls == 0 else Phase.DECODE)
            calls += 1

        handle = model.register_forward_pre_hook(entered)
        try:
            with self.autocast():
                model.generate(**batch, max_new_tokens=self.new_tokens, do_sample=False, pad_token_id=0)
        finally:
            handle.remove()

"""``MemprofCallback``: a Hugging Face Trainer that says what its steps take, beside what was predicted."""

# ruff: noqa: ARG002 - the Trainer names all of them in each call

from __future__ import annotations

import logging
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

from transformers import TrainerCallback

from memprof.errors import MemprofError
from memprof.integrations.derive import scenario_of
from memprof.integrations.longest import longest_batch
from memprof.integrations.watch import Watch
from memprof.model.scenario import Scenario

_log = logging.getLogger("memprof")


class MemprofCallback(TrainerCallback):
    """Logs each step's predicted and real peak, and warns before the longest batch would not fit.

    Figures go to the Trainer's log (``memprof/...``, in bytes) and to MLflow where a run is open.

    Attributes:
        watch: the steps so far; None before training, and where nothing is known of the scenario.
    """

    def __init__(self, scenario: Scenario | None = None, *, engine: str = "analytic", tape: str | None = None) -> None:
        """``scenario`` by default is the Trainer's own: its arguments, model and batches.

        Args:
            scenario: what is predicted; its batch is taken from the real ones.
            engine: ``analytic``, or ``trace``, which takes seconds for each new shape.
            tape: where the allocator's history goes on an out-of-memory error; CUDA only.
        """
        self.watch: Watch | None = None
        self._scenario, self._engine, self._tape = scenario, engine, tape
        self._folder = Path(mkdtemp(prefix="memprof-"))
        finalize(self, rmtree, self._folder, ignore_errors=True)  # training may end by an error, of which nobody tells
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Finds the scenario, and says whether its longest batch fits."""
        self._close()
        model, loader = parts["model"], parts["train_dataloader"]
        try:
            scenario = self._scenario or self._derived(args, model)
        except MemprofError as error:
            _log.warning("nothing is predicted: %s", error)
            return
        self.watch = Watch(scenario, engine=self._engine, tape=self._tape)
        self._hook = model.register_forward_pre_hook(self._see, with_kwargs=True)
        batch = longest_batch(loader, args.train_batch_size, getattr(args, "length_column_name", "length"))
        if batch is not None and state.is_world_process_zero:
            self.watch.warn_before(batch, "the longest batch of the dataset")

    def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Peaks are counted from here."""
        if self.watch is not None:
            self.watch.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """The step's peaks are there."""
        if self.watch is not None:
            self.watch.end(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **parts: Any) -> None:
        """The latest step's figures join the loss in the log, for callbacks that come after this one too."""
        if self.watch is None or not self.watch.steps or logs is None or "loss" not in logs:
            return
        figures = self.watch.steps[-1].figures
        logs.update(figures)
        state.log_history[-1].update(figures)

    def on_train_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Nothing is held any more but the steps."""
        self._close()

    def _derived(self, args: Any, model: Any) -> Scenario:
        said = args.to_dict() | {"world_size": args.world_size}
        scenario, notes = scenario_of(said, model, self._folder)
        for note in notes:
            _log.info("%s", note)
        return scenario

    def _see(self, model: Any, positional: Any, inputs: Any) -> None:
        if self.watch is not None and model.training and inputs:
            self.watch.see(inputs)

    def _close(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

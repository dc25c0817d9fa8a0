"""Figures and estimates in the MLflow run that is active, where the program uses MLflow; else nothing.

Source: https://mlflow.org/docs/latest/api_reference/python_api/mlflow.html
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from memprof.model.result import Result

_ARTIFACT = "memprof/estimate.json"


def log_figures(figures: dict[str, float], step: int) -> None:
    """Metrics of one step."""
    if (mlflow := _active()) is not None:
        mlflow.log_metrics(figures, step=step)


def log_estimate(result: Result) -> None:
    """The whole estimate as an artifact, as ``memprof estimate --json`` prints it."""
    if (mlflow := _active()) is not None:
        mlflow.log_dict(msgspec.to_builtins(result), _ARTIFACT)


def _active() -> Any:
    """The library, where it is in use and a run is open; it is not imported for this."""
    mlflow = sys.modules.get("mlflow")
    return mlflow if mlflow is not None and mlflow.active_run() is not None else None

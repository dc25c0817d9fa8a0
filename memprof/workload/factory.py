"""``package.module:factory``: a user's own model, made by a function of theirs.

The function is called without arguments, or with those of ``batch_size``, ``sequence_length`` and ``image_size`` that
it names, and returns one of

- a Hugging Face model: inputs are made from its config,
- ``(model, inputs)``: inputs are a dict of keyword arguments, a tuple of positional ones, or one tensor,
- ``(model, inputs, loss)``: ``loss(outputs, inputs)`` gives the scalar to differentiate.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from memprof.errors import ModelError, UnsupportedError
from memprof.model.scenario import Scenario
from memprof.workload.inputs import batch_of
from memprof.workload.workload import Workload, own_loss


def from_factory(name: str, scenario: Scenario) -> Workload:
    """Runs the factory.

    Raises:
        ModelError: it cannot be found, fails, or returns something else.
        UnsupportedError: its loss is to be another one.
    """
    if scenario.loss != "full" and scenario.mode == "train":
        raise UnsupportedError(
            f"a factory's model brings its own loss, and the scenario asks for loss {scenario.loss}",
            "leave loss at full, and let the factory return (model, inputs, loss)",
        )
    factory = _find(name)
    offered = {
        "batch_size": scenario.batch.micro_batch_size,
        "sequence_length": scenario.batch.sequence_length,
        "image_size": scenario.batch.image_size,
    }
    wanted = inspect.signature(factory).parameters
    try:
        made = factory(**{key: value for key, value in offered.items() if key in wanted and value is not None})
    except Exception as error:
        raise ModelError(
            f"{name} failed with {type(error).__name__}: {error}", "call it yourself to see where"
        ) from error
    return _workload(name, made, scenario)


def _find(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()  # noqa: PTH109
    if here not in sys.path:  # as python -m does
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModelError(f"cannot import {module_name}: {error}", "start memprof where python finds it") from None
    except Exception as error:
        raise ModelError(f"importing {module_name} failed with {type(error).__name__}: {error}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ModelError(f"{module_name} has no function {attribute}", "name a function that returns the model")
    return factory


def _workload(name: str, made: Any, scenario: Scenario) -> Workload:
    import torch

    parts = made if isinstance(made, tuple) else (made,)
    model, inputs, loss = (*parts, None, None)[:3]
    if not isinstance(model, torch.nn.Module) or len(parts) > 3:
        raise ModelError(
            f"{name} returned {type(made).__name__}, not a torch.nn.Module",
            "return the model, (model, inputs) or (model, inputs, loss)",
        )
    if inputs is None:
        if not hasattr(model, "main_input_name"):
            raise ModelError(f"{name} returned a model without inputs", "return (model, inputs), e.g. {'x': a tensor}")
        return Workload(model=model, batch=lambda: batch_of(model, scenario), loss=loss or own_loss)
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if not isinstance(inputs, Mapping | tuple | list):
        raise ModelError(
            f"{name} returned inputs of type {type(inputs).__name__}", "return a dict, a tuple or a tensor"
        )
    given = dict(inputs) if isinstance(inputs, Mapping) else tuple(inputs)
    return Workload(model=model, batch=lambda: given, loss=loss or own_loss)

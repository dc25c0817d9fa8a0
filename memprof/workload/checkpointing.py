"""Activation checkpointing: the library's own switch, or PyTorch's wrapper around the blocks of any other module."""

from __future__ import annotations

from typing import Any

from memprof.errors import ModelError, UnsupportedError
from memprof.model.scenario import SelectiveCheckpointing

_SETTINGS = {"use_reentrant": False}
"""Trainer's default. Source: transformers 5.23 wheel, trainer.py."""


def checkpoint_blocks(model: Any, checkpointing: Any) -> None:
    """Switches checkpointing on: ``full``, or of every n-th block.

    Raises:
        ModelError: the model has no blocks to checkpoint.
        UnsupportedError: ``selective``, or every n-th block of a model that cannot do so.
    """
    if checkpointing == "none":
        return
    if checkpointing == "selective":
        raise UnsupportedError(
            "selective checkpointing chooses ops, and which ones is for the training program to say",
            "use full, or {every: N}",
        )
    every = checkpointing.every if isinstance(checkpointing, SelectiveCheckpointing) else 1
    if not hasattr(model, "gradient_checkpointing_enable"):
        _wrap(model, every)
        return
    try:
        _enable(model, every)
    except ValueError as error:
        raise ModelError(str(error).splitlines()[0], "leave checkpointing at none") from error


def _enable(model: Any, every: int) -> None:
    if hasattr(model, "activation_checkpointing_enable"):  # since transformers 5.20
        model.activation_checkpointing_enable(_SETTINGS, every_n_layers=every)
    elif every == 1:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=_SETTINGS)
    else:
        raise UnsupportedError("this transformers checkpoints every block or none", "update transformers, or use full")


def _wrap(model: Any, every: int) -> None:
    """The entries of the longest ``ModuleList`` or ``Sequential`` of like modules are the blocks."""
    import torch
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList | torch.nn.Sequential) and _alike(m)]
    if not lists:
        raise ModelError(
            f"{type(model).__name__} has no list of like blocks to checkpoint", "leave checkpointing at none"
        )
    blocks = max(lists, key=len)
    for index in range(0, len(blocks), every):
        blocks[index] = checkpoint_wrapper(blocks[index])


def _alike(modules: Any) -> bool:
    return len(modules) > 1 and len({type(module) for module in modules}) == 1

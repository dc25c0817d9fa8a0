"""A scenario's optimizer as the real object: ``torch.optim``'s, bitsandbytes' or torchao's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from memprof.errors import ConfigError, UnsupportedError
from memprof.model.scenario import Optimizer
from memprof.semantics.optimizer_torchao import BLOCK_NUMEL

_LEARNING_RATE = 1e-4
_TORCH = {
    "adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "adafactor": "Adafactor", "adagrad": "Adagrad",
    "rmsprop": "RMSprop",
}  # fmt: skip
_BITSANDBYTES = {
    "lion": "Lion", "lion-8bit": "Lion8bit", "adamw-8bit": "AdamW8bit", "paged-adamw": "PagedAdamW",
    "paged-lion": "PagedLion", "paged-adamw-8bit": "PagedAdamW8bit", "paged-lion-8bit": "PagedLion8bit",
}  # fmt: skip
_TORCHAO = {"torchao-adamw-8bit": "AdamW8bit", "torchao-adamw-4bit": "AdamW4bit"}


def make_optimizer(optimizer: Optimizer, parameters: Iterable[Any]) -> Any:
    """The optimizer over the parameters that require gradients; ``implementation`` is resolved already.

    Raises:
        ConfigError: the library that is asked for is not installed.
        UnsupportedError: states or master weights that only Transformer Engine keeps.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if optimizer.master_weights or optimizer.state_dtype is not None:
        raise UnsupportedError(
            "master weights and state dtypes are Transformer Engine's, which needs CUDA",
            "leave out optimizer.master_weights and optimizer.state_dtype, or use --engine analytic",
        )
    settings: dict[str, Any] = {"lr": _LEARNING_RATE}
    if optimizer.weight_decay is not None:
        settings["weight_decay"] = optimizer.weight_decay
    if optimizer.momentum is not None:
        settings["momentum"] = optimizer.momentum
    if optimizer.name in _TORCH:
        import torch

        settings |= {
            "fused": {"fused": True},
            "foreach": {"foreach": True},
            "for-loop": {"foreach": False},
        }.get(optimizer.implementation, {})
        return getattr(torch.optim, _TORCH[optimizer.name])(trained, **settings)
    if optimizer.name in _TORCHAO:
        try:
            import torchao.optim
        except ImportError:
            raise ConfigError(f"{optimizer.name} is torchao's, which is not installed", "pip install torchao") from None
        return getattr(torchao.optim, _TORCHAO[optimizer.name])(trained, block_size=BLOCK_NUMEL, **settings)
    try:
        import bitsandbytes
    except ImportError:
        raise ConfigError(
            f"{optimizer.name} is bitsandbytes', which is not installed", "pip install 'memprof-gpu[torch]'"
        ) from None
    return getattr(bitsandbytes.optim, _BITSANDBYTES[optimizer.name])(trained, **settings)

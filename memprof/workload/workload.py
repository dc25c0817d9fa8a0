"""What a step works on: a model, a micro-batch of it, and how its loss is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from memprof.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model and its synthetic data.

    Attributes:
        model: any ``torch.nn.Module``, on the device where it runs.
        batch: makes one micro-batch: keyword arguments of the model, or positional ones as a tuple.
        loss: the scalar that is differentiated, from what the model returned and the batch.
    """

    model: Any
    batch: Callable[[], Mapping[str, Any] | tuple[Any, ...]]
    loss: Callable[[Any, Any], Any]

    def forward(self, batch: Mapping[str, Any] | tuple[Any, ...]) -> Any:
        """Calls the model with a batch."""
        return self.model(**batch) if isinstance(batch, Mapping) else self.model(*batch)


def own_loss(outputs: Any, _: Any) -> Any:
    """The loss that the model itself returns: Hugging Face's ``outputs.loss``, or a scalar.

    Raises:
        ModelError: there is none.
    """
    loss = getattr(outputs, "loss", None)
    if loss is None and getattr(outputs, "ndim", None) == 0:
        loss = outputs
    if loss is None:
        raise ModelError(
            f"the model returned {type(outputs).__name__}, which is no loss and has none",
            "let the factory return (model, inputs, loss), where loss(outputs, inputs) gives a scalar",
        )
    return loss

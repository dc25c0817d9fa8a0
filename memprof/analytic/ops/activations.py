"""Activation functions by the names that Hugging Face configs use.

Source: transformers 5.23, activations.py (``ACT2FN``).
"""

from __future__ import annotations

from memprof.analytic.autograd import Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.ops.pointwise import activation, gelu_new
from memprof.errors import UnsupportedError

_FUSED = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}


def act(g: Graph, x: Tensor, name: str) -> Tensor:
    """Applies ``ACT2FN[name]``.

    Raises:
        UnsupportedError: an activation that the engine has no rule for.
    """
    if name == "gelu_new":
        return gelu_new(g, x)
    fused = _FUSED.get(name)
    if fused is None:
        raise UnsupportedError(
            f"the analytic engine has no rule for the activation {name}", f"it knows {', '.join([*_FUSED, 'gelu_new'])}"
        )
    return activation(g, x, fused)

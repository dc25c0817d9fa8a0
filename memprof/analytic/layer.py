"""The weights of one stage in play, and the linear layers that use them, with their adapters or quantization."""

from __future__ import annotations

from typing import NamedTuple

from memprof.analytic.autograd import Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.ops.matmul import linear
from memprof.analytic.ops.normalization import dropout
from memprof.analytic.ops.pointwise import add, cast, scale
from memprof.analytic.ops.quantized import QuantizedWeight, quantized_linear


class Adapter(NamedTuple):
    """LoRA's two weights for one module, and its dropout."""

    a: Tensor
    b: Tensor
    dropout: float


class Layer:
    """One stage's weights by their name within it; ``path`` is the stage's module path, layer index starred."""

    __slots__ = ("graph", "path", "weights", "adapters", "quantized")

    def __init__(self, graph: Graph, path: str) -> None:
        self.graph = graph
        self.path = path
        self.weights: dict[str, Tensor] = {}
        self.adapters: dict[str, Adapter] = {}
        self.quantized: dict[str, QuantizedWeight] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[name]

    def get(self, name: str) -> Tensor | None:
        return self.weights.get(name)

    def enter(self, name: str) -> None:
        """The ops that follow belong to this submodule."""
        self.graph.tape.module = f"{self.path}.{name}" if self.path and name else self.path or name

    def linear(self, x: Tensor, name: str, *, transposed: bool = False) -> Tensor:
        """The module ``name`` applied to ``x``: plain, quantized, adapted. ``transposed`` marks GPT-2's Conv1D."""
        self.enter(name)
        g = self.graph
        bias = self.weights.get(f"{name}.bias")
        packed = self.quantized.get(name)
        if packed is not None:
            out = quantized_linear(g, x, packed, bias)
        else:
            out = linear(g, x, self.weights[f"{name}.weight"], bias, transposed=transposed)
        adapter = self.adapters.get(name)
        return out if adapter is None else self._adapted(x, out, adapter, packed)

    def _adapted(self, x: Tensor, result: Tensor, adapter: Adapter, packed: QuantizedWeight | None) -> Tensor:
        """Steps 1-9 of ``semantics.lora``."""
        g = self.graph
        if packed is not None and packed.quantization != "int8":
            g.tape.op("clone", 0, result.num_bytes)
            copy = g.like(result)
            if g.records(result):
                g.record("Clone", copy, (result.node,), lambda grad: grad)
            result = copy
        base_dtype = result.dtype
        if packed is None or g.autocast is None:
            x = cast(g, x, adapter.a.dtype)
        high = scale(g, linear(g, linear(g, dropout(g, x, adapter.dropout), adapter.a), adapter.b))
        if packed is not None and g.autocast is None:
            high = cast(g, high, base_dtype)
        result = add(g, result, high)
        return cast(g, result, base_dtype) if packed is None else result

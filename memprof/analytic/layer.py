"""The weights of one stage in play, and the linear layers that use them, with their adapters or quantization."""

from __future__ import annotations

import msgspec

from memprof.analytic.autograd import Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.ops.matmul import linear
from memprof.analytic.ops.normalization import dropout
from memprof.analytic.ops.pointwise import add, cast, clone, scale
from memprof.analytic.ops.quantized import QuantizedWeight, quantized_linear
from memprof.semantics.lora import converts_over_quantized


class Adapter(msgspec.Struct, frozen=True):
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
        if name not in self.adapters:
            return self._base(x, name, transposed)
        if name in self.quantized:
            return self._adapted_quantized(x, name)
        return self._adapted(x, name, transposed)

    def _base(self, x: Tensor, name: str, transposed: bool) -> Tensor:
        if name in self.quantized:
            return quantized_linear(self.graph, x, self.quantized[name])
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        return linear(self.graph, x, weight, bias, transposed=transposed)

    def _adapted(self, x: Tensor, name: str, transposed: bool) -> Tensor:
        """``Linear.forward`` of ``semantics.lora``: steps 1-6, 8 and 9."""
        g, adapter = self.graph, self.adapters[name]
        result = self._base(x, name, transposed)
        dtype = result.dtype
        x = cast(g, x, adapter.a.dtype)
        result = add(g, result, self._update(x, adapter))
        return cast(g, result, dtype)

    def _adapted_quantized(self, x: Tensor, name: str) -> Tensor:
        """``Linear4bit.forward`` and ``Linear8bitLt.forward`` of ``semantics.lora``: steps 1-8."""
        g, adapter = self.graph, self.adapters[name]
        result = self._base(x, name, False)
        if self.quantized[name].quantization != "int8":
            result = clone(g, result)
        converts = converts_over_quantized(g.semantics.kind, g.autocast is not None)
        if converts:
            x = cast(g, x, adapter.a.dtype)
        high = self._update(x, adapter)
        if converts:
            high = cast(g, high, result.dtype)
        return add(g, result, high)

    def _update(self, x: Tensor, adapter: Adapter) -> Tensor:
        g = self.graph
        return scale(g, self._call(self._call(dropout(g, x, adapter.dropout), adapter.a), adapter.b))

    def _call(self, x: Tensor, weight: Tensor) -> Tensor:
        """A module's call, which holds its argument until it returns."""
        return linear(self.graph, x, weight)

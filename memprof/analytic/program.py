"""A model program in play: its weights, its layers folded into segments, and the parts that all families share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from memprof.analytic.autograd import InputLeaf, Node, Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.layer import Layer
from memprof.analytic.ops.attention import flash_attn, scaled_dot_product_attention
from memprof.analytic.ops.pointwise import cast, promote
from memprof.analytic.ops.shape import contiguous, heads_inside, repeat_kv
from memprof.analytic.strategies.base import Strategy
from memprof.analytic.tape import Storage
from memprof.errors import UnsupportedError
from memprof.model.architecture import Architecture
from memprof.model.scenario import Scenario
from memprof.model.timeline import Component
from memprof.semantics.attention_choice import Backend
from memprof.semantics.attention_transformers import copies_inputs, sdpa_arguments
from memprof.semantics.precision import plan
from memprof.semantics.transformers_releases import CACHE_IS_AN_OBJECT

FORCED: dict[str, Backend] = {
    "sdpa-flash": "flash",
    "sdpa-efficient": "efficient",
    "sdpa-cudnn": "cudnn",
    "sdpa-math": "math",
}


class Attend(NamedTuple):
    """One attention call: (B, H, S, D) tensors, an optional mask, the dropout rate, query heads per key head."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    dropout: float
    groups: int


class Group:
    """The autograd nodes of one segment, and the nodes through which gradients come in and go out."""

    __slots__ = ("name", "run", "nodes", "entry", "exit", "unit")

    def __init__(self, name: str, run: int) -> None:
        self.name = name
        self.run = run
        self.nodes: list[Node] = []
        self.entry: Node | None = None
        self.exit: Node | None = None
        self.unit = -1


class Program:
    """What a family's ``forward`` plays on. Layers are played twice at most: the first alone, then one for the rest.

    The first layer is never folded: it is the one that differs (its input outlives it, it may need no input gradient).
    """

    def __init__(self, graph: Graph, architecture: Architecture, scenario: Scenario, strategy: Strategy) -> None:
        self.graph = graph
        self.architecture = architecture
        self.scenario = scenario
        self.config: dict[str, Any] = architecture.config
        self.attention = scenario.attention
        self.strategy = strategy
        self.root = Layer(graph, "")
        self.num_units = 0
        self.stacks: dict[str, list[tuple[Layer, int]]] = {}
        self.groups: list[Group] = []
        self.leaf_inputs = scenario.adapter is not None and scenario.checkpointing != "none"
        self.input_leaf: InputLeaf | None = None
        self.caches: dict[int, list[Storage]] = {}
        self.past_caches: list[Storage] = []
        self.cache_length = 0
        self.positions: Tensor | None = None
        self.use_cache = False
        self.outputs: list[Storage] = []
        self.new_outputs: list[Storage] = []

    # ---- segments ----

    def begin(self, name: str, run: int = -1) -> Group:
        """Starts a forward segment and the group of its nodes."""
        self.graph.tape.segment(name, run)
        group = Group(name, run)
        self.groups.append(group)
        self.graph.nodes = group.nodes
        return group

    def stack(self, name: str, layer: Callable[[Layer, Tensor], Tensor], box: list[Tensor], *others: Tensor) -> Tensor:
        """Plays the layers of a stage over the residual stream in ``box``, checkpointed where the scenario says so.

        The box is emptied: a caller that keeps no variable of its own lets the first layer's input go with it.
        ``others`` are the tensors that the library hands to a layer by position, which a checkpoint saves.
        """
        g = self.graph
        x = box.pop()
        checkpointed = self.scenario.checkpointing == "full"
        for weights, run in self.stacks[name]:
            group = self.begin(name, run)
            weights.enter("")
            group.entry, block = x.node, x.storage.block
            group.unit = self.num_units = self.num_units + 1
            self.strategy.forward_enter(group.unit)
            x = g.checkpoint(partial(layer, weights), x, *others) if checkpointed else layer(weights, x)
            group.exit = x.node
            weights.enter("")
            self.strategy.forward_exit(group.unit)
            if run >= 0 and block != x.storage.block:
                g.tape.carry(run, block, x.storage.block, 1)
        self.begin("head")
        return x

    def backward(self, box: list[Tensor]) -> None:
        """``loss.backward()``: groups latest first, each in a segment of its own. ``box`` holds the loss."""
        g = self.graph
        g.tape.module = ""
        g.tape.segment("loss backward")
        g.tape.op("ones_like")
        loss = box[0]
        assert loss.node is not None
        loss.node.receive(g.tape, g.new((), loss.dtype, 1))
        del loss
        self.strategy.backward_begin()
        while self.groups:
            group = self.groups.pop()
            self.strategy.backward_next(group.unit)
            g.tape.segment(f"{group.name} backward", group.run, -1)
            arriving = _block(group.exit)
            g.nodes = []
            if group.unit > 0:
                self.strategy.backward_enter(group.unit)
            g.backward(group.nodes)
            if group.unit > 0:
                self.strategy.backward_exit(group.unit, reaches_input=group.entry is not None)
            leaving = _block(group.entry)
            if group.run >= 0 and arriving >= 0 and leaving >= 0 and arriving != leaving:
                g.tape.carry(group.run, arriving, leaving, -1)

        g.tape.segment("backward end")
        g.tape.module = ""
        self.strategy.backward_end()
        self.input_leaf = None
        g.kept.clear()

    # ---- what families share ----

    def rate(self, name: str) -> float:
        """A dropout rate of the config, or the scenario's for all of them."""
        override = self.scenario.loop.dropout
        return float(self.config.get(name, 0.0)) if override is None else override

    def input_gradients(self, embeds: Tensor) -> Tensor:
        """``enable_input_require_grads``: the embedding's output becomes a leaf.

        Checkpointed layers below frozen weights so have a gradient to compute.
        """
        if self.leaf_inputs and embeds.node is None and self.graph.grad_enabled:
            embeds.node = self.input_leaf = InputLeaf(embeds, self.graph.tape.module)
        return embeds

    def position_ids(self, ids: Tensor) -> Tensor:
        """As handed to the model by ``generate``, else its own: one row for the whole batch."""
        if self.positions is not None:
            return self.positions
        self.graph.tape.op("arange")
        length = ids.shape[-1]
        positions = self.graph.new((1, length), "int64")
        self.graph.tape.op("add")
        positions = self.graph.new((1, length), "int64")
        return positions

    def causal_mask(self, ids: Tensor, dtype: str) -> Tensor | None:
        """``create_causal_mask`` without padding.

        An additive (B, 1, S, S) mask for eager attention; for SDPA none, but a bool one, the same for
        all sequences, where they fill a sliding window; for flash-attn none.
        """
        if self.attention == "flash-attn":
            return None
        g = self.graph
        length, total = ids.shape[-1], self.cached() + ids.shape[-1]
        if self.attention != "eager":
            window = self.window(total)
            if window is None:
                return None
            g.tape.op("le")
            mask = g.view(g.new((1, 1, length, total), "bool"), (ids.shape[0], 1, length, total))
            mask.numel *= ids.shape[0]
            mask.expanded = True
            return mask
        g.tape.op("le")
        allowed = g.new((1, 1, length, total), "bool")
        g.tape.op("where")
        mask = g.new((ids.shape[0], 1, length, total), dtype)
        del allowed
        return mask

    def window(self, length: int) -> int | None:
        """The sliding window, where the sequence fills it. Source: masking_utils.py, ``_ignore_causal_mask_sdpa``.

        Raises:
            UnsupportedError: only some of the layers have one.
        """
        window = self.config.get("sliding_window")
        kinds = set(self.config.get("layer_types") or ())
        if window is None or length < window or kinds == {"full_attention"}:
            return None
        if len(kinds) > 1:
            raise UnsupportedError(
                f"the analytic engine does not model layers with and without a sliding window of {window}",
                f"choose batch.sequence_length of less than {window}",
            )
        return int(window)

    def attend(self, call: Attend) -> tuple[Tensor, None]:
        """The library's integration of whatever computes attention in one call."""
        return (self.flash_attn(call) if self.attention == "flash-attn" else self.sdpa(call)), None

    def flash_attn(self, call: Attend) -> Tensor:
        """``flash_attention_forward``, which casts what is float32: autocast does not know the function.

        The positions of a single sequence tell whether it is several, packed.

        Source: transformers 5.23, modeling_flash_attention_utils.py (``_flash_attention_forward``).
        """
        g = self.graph
        query, key, value = call.query, call.key, call.value
        if query.dtype == "float32":
            dtype = g.autocast or plan(self.scenario.precision, self.scenario.parallelism.strategy).compute
            query, key, value = (cast(g, x, dtype) for x in (query, key, value))
        if query.shape[0] == 1 and query.shape[2] > 1:
            looks_packed(g, query.shape[2])
        return flash_attn(g, query, key, value, is_causal=True, dropout=call.dropout)

    def sdpa(self, call: Attend) -> Tensor:
        """``sdpa_attention_forward`` of the library's integration."""
        g = self.graph
        query, key, value, mask, rate, groups = call
        arguments = sdpa_arguments(
            g.semantics, batch=query.shape[0], q_heads=query.shape[1], kv_heads=key.shape[1], q_len=query.shape[2],
            kv_len=key.shape[2], head_dim=query.shape[3], value_head_dim=value.shape[3], causal=True,
            padded=mask is not None,
        )  # fmt: skip
        if arguments.repeats_kv:
            key, value = repeat_kv(g, key, groups), repeat_kv(g, value, groups)
        if copies_inputs(g.semantics):
            query, key, value = contiguous(g, query), contiguous(g, key), contiguous(g, value)
        out = scaled_dot_product_attention(
            g, query, key, value, mask=mask, is_causal=arguments.is_causal, dropout=rate,
            enable_gqa=arguments.enable_gqa, forced=FORCED.get(self.attention),
        )  # fmt: skip
        return heads_inside(g, out)

    def cache(self, weights: Layer, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """``DynamicCache.update``: the new keys and values joined to the old in new tensors, which the cache keeps.

        The cache has its first keys' dtype, to which values of another are promoted.
        A training step has no cache but with transformers before 5, where the outputs then hold the keys and values.
        """
        if not self.use_cache:
            if self.graph.semantics.transformers < (5, 0):
                self.keep_output(key)
                self.keep_output(value)
            return key, value
        joined = []
        held = self.caches.setdefault(id(weights), [])
        g = self.graph
        for index, x in enumerate((key, value)):
            batch, heads, length, width = x.shape
            g.tape.op("cat", 0, x.num_bytes)
            out = g.new((batch, heads, self.cached() + length, width), promote(key, x))
            if out.storage.block >= 0:
                g.tape.component[out.storage.block] = Component.KV_CACHE
            if index < len(held):
                if g.semantics.transformers < CACHE_IS_AN_OBJECT:
                    self.past_caches.append(held[index])
                held[index] = out.storage
            else:
                held.append(out.storage)
            joined.append(out)
        return joined[0], joined[1]

    def keep_output(self, x: Tensor) -> None:
        """``x`` is part of the model's output object, which ``loop.keep_outputs`` keeps for another forward."""
        if self.scenario.loop.keep_outputs and x.storage not in self.new_outputs:
            self.new_outputs.append(x.storage)

    def let_go_of_outputs(self) -> None:
        """``outputs = model(...)``: the last step's outputs die when this step's are there."""
        self.outputs, self.new_outputs = self.new_outputs, []

    def grow_caches(self, tokens: int) -> None:
        """The caches after ``tokens`` more decoding steps, layer by layer; each new one is made before the old goes."""
        g, before = self.graph, self.cache_length
        self.cache_length += tokens
        for layers in self.stacks.values():
            for weights, run in layers:
                g.tape.segment("cache growth", run)
                weights.enter("self_attn")
                g.tape.op("cat")
                held = self.caches.get(id(weights), [])
                for index, storage in enumerate(held):
                    size = g.tape.num_bytes[storage.block] // before * self.cached()
                    held[index] = g.tape.alloc(size, Component.KV_CACHE)
                    del storage

    def cached(self) -> int:
        """How many tokens a layer's cache hands on: all, or one less than its sliding window."""
        window = self.window(self.cache_length + 1)
        return self.cache_length if window is None else window - 1

    def logits(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """The output head over every position."""
        from memprof.analytic.ops.matmul import linear

        self.root.enter("lm_head")
        return linear(self.graph, hidden, weight)


def looks_packed(g: Graph, length: int) -> None:
    """``_is_packed_sequence``: the positions beside those of one sequence; all is gone when the answer is there."""
    vector, scalar = (length,), ()
    g.tape.op("arange")
    steps = g.new(vector, "int64")
    g.tape.op("min")
    first = g.new(scalar, "int64")
    g.tape.op("add")
    expected = g.new(vector, "int64")
    del steps, first
    g.tape.op("sub")
    found = g.new(vector, "int64")
    g.tape.op("abs")
    found = g.new(vector, "int64")
    g.tape.op("sum")
    found = g.new(scalar, "int64")
    g.tape.op("to")
    found = g.new(scalar, "bool")
    del expected, found


def _block(node: Node | None) -> int:
    return node.grad.storage.block if node is not None and node.grad is not None else -1

"""Loading: which tensors a model's parameters become on the device, in the order in which loading asks for them.

A parameter is plain, quantized (frozen), frozen under an adapter, or trainable; adapters come after the whole model.
"""

from __future__ import annotations

import msgspec

from memprof.analytic.autograd import Leaf
from memprof.analytic.layer import Adapter, Layer
from memprof.analytic.ops.quantized import QuantizedWeight
from memprof.analytic.program import Program
from memprof.analytic.stretch import Stretch, Trained
from memprof.analytic.tape import Tape
from memprof.model.architecture import Parameter, Stage
from memprof.model.dtypes import ITEM_BYTES
from memprof.model.timeline import Component
from memprof.semantics.lora import adapter_dtype, adapter_parameters, is_adapted
from memprof.semantics.quantization import bias_dtype, is_quantized, prepared_dtype, stored


class Loading(msgspec.Struct, frozen=True):
    """What decides the form of a parameter.

    Attributes:
        weight_dtype: of every parameter as loaded.
        compute_dtype: of a quantized weight's products.
        targets: LoRA's module names; None without an adapter.
        heads: modules that quantizers and ``all-linear`` leave alone.
        prepared: ``prepare_model_for_kbit_training`` has run.
    """

    weight_dtype: str
    compute_dtype: str
    quantization: str | None
    targets: tuple[str, ...] | None
    rank: int
    adapter_dropout: float
    heads: frozenset[str]
    prepared: bool


def load(program: Program, how: Loading) -> list[Stretch]:
    """Allocates every weight and buffer and returns what is trainable, in ``named_parameters()`` order.

    The first layer of the first stack is a stretch of its own, see ``Program``.
    """
    tape = program.graph.tape
    stretches: list[Stretch] = []
    played: list[tuple[Stage, Layer, Stretch]] = []
    for stage in program.architecture.stages:
        if not stage.name:
            parts = [(program.root, -1, 1)]
        elif not program.strategy.folds:
            parts = [(Layer(program.graph, stage.name), -1, 1) for _ in range(stage.count)]
        elif program.stacks or stage.count == 1:
            parts = [(Layer(program.graph, stage.name), -1, 1)]
            if stage.count > 1:
                parts = [
                    (Layer(program.graph, stage.name), program.graph.tape.new_run(stage.name, stage.count), stage.count)
                ]
        else:
            rest = stage.count - 1
            parts = [
                (Layer(program.graph, stage.name), -1, 1),
                (Layer(program.graph, stage.name), program.graph.tape.new_run(stage.name, rest), rest),
            ]
        for layer, run, count in parts:
            name = stage.name or "root"
            tape.segment(f"load {name}", run)
            tape.module = stage.name
            tape.op("load")
            stretch = Stretch(name, run, count, [])
            program.strategy.stretch_begins(len(stretches))
            _load_stage(program, layer, stage, how, stretch)
            stretches.append(stretch)
            played.append((stage, layer, stretch))
            if stage.name:
                program.stacks.setdefault(stage.name, []).append((layer, run))
    if how.targets is not None:
        for index, (stage, layer, stretch) in enumerate(played):
            program.strategy.stretch_begins(index)
            tape.segment(f"adapters {stretch.name}", stretch.run)
            tape.op("load")
            _add_adapters(program, layer, stage, how, stretch)
    tape.module = ""
    return stretches


def _load_stage(program: Program, layer: Layer, stage: Stage, how: Loading, stretch: Stretch) -> None:
    tape = program.graph.tape
    prefix = f"{stage.name}." if stage.name else ""
    for parameter in stage.parameters:
        path = prefix + parameter.name
        module = parameter.name.removesuffix(".weight")
        _owned_by(tape, path)
        if how.quantization is not None and is_quantized(parameter, path, how.heads):
            layer.quantized[module] = _quantized(program, parameter, how)
            continue
        dtype = prepared_dtype(how.weight_dtype) if how.prepared else how.weight_dtype
        if parameter.name.endswith(".bias") and parameter.name.removesuffix(".bias") in layer.quantized:
            dtype = bias_dtype(how.quantization, dtype, how.compute_dtype)
        trainable = how.targets is None and how.quantization is None
        tensor = program.strategy.place(parameter.shape, dtype, trainable)
        if trainable:
            tensor.node = Leaf(path, stage.name)
            stretch.trained.append(Trained(path, tensor))
        layer.weights[parameter.name] = tensor
    for buffer in stage.buffers:
        dtype = buffer.dtype or how.weight_dtype
        numel = 1
        for size in buffer.shape:
            numel *= size
        _owned_by(tape, prefix + buffer.name)
        tape.survivors.append(tape.alloc(numel * ITEM_BYTES[dtype], Component.BUFFERS))


def _owned_by(tape: Tape, path: str) -> None:
    """What is allocated next belongs to the module that holds this parameter or buffer."""
    tape.module = path.rpartition(".")[0]
    tape.op("load")


def _quantized(program: Program, parameter: Parameter, how: Loading) -> QuantizedWeight:
    num_out, num_in = parameter.shape if parameter.kind == "linear" else parameter.shape[::-1]
    kind = how.quantization
    assert kind is not None
    tape = program.graph.tape
    storages = tuple(tape.alloc(t.num_bytes, Component.WEIGHTS) for t in stored(kind, num_out, num_in))  # type: ignore[arg-type]
    return QuantizedWeight(kind, num_out, num_in, how.weight_dtype, how.compute_dtype, storages)  # type: ignore[arg-type]


def _add_adapters(program: Program, layer: Layer, stage: Stage, how: Loading, stretch: Stretch) -> None:
    tape = program.graph.tape
    prefix = f"{stage.name}." if stage.name else ""
    dtype = adapter_dtype(how.weight_dtype)
    assert how.targets is not None
    for parameter in stage.parameters:
        if not is_adapted(parameter, prefix + parameter.name, how.targets, how.heads):
            continue
        pair = []
        for name, shape in adapter_parameters(parameter, how.rank):
            _owned_by(tape, prefix + parameter.name)
            tensor = program.strategy.place(shape, dtype, True)
            tensor.node = Leaf(prefix + name, stage.name)
            stretch.trained.append(Trained(prefix + name, tensor))
            pair.append(tensor)
        layer.adapters[parameter.name.removesuffix(".weight")] = Adapter(pair[0], pair[1], how.adapter_dropout)

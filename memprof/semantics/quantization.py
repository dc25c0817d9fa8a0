"""bitsandbytes' quantized weights: what is stored, which weights are, and what their linear layers allocate.

The compute dtype is the scenario's: memprof takes ``bnb_4bit_compute_dtype`` to be the precision's 16-bit type, as
people set it (the library's own default is float32), and the weights to come from a checkpoint in that type.
``int8`` is ``load_in_8bit``: threshold 6.0, weights frozen. Outlier columns, a matter of data, are taken to be none.

Source: bitsandbytes 0.50.2 wheel: functional.py (``quantize_4bit``, ``quantize_blockwise``, ``dequantize_4bit``),
nn/modules.py, autograd/_functions.py, backends/cuda/ops.py, backends/default/ops.py; transformers 5.23 wheel:
utils/quantization_config.py (``BitsAndBytesConfig``).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

from memprof.model.architecture import Architecture, Parameter
from memprof.model.dtypes import ITEM_BYTES
from memprof.model.scenario import Quantization

BLOCK_NUMEL = 64
NESTED_BLOCK_NUMEL = 256
CODE_BYTES = 16 * 4
NESTED_CODE_BYTES = 256 * 4
FUSED_MAX_TOKENS = 4
"""Up to here the 4-bit kernel reads packed weights on every architecture (``_GEMM_4BIT_CUSTOM_FLOOR_M``)."""


class Stored(NamedTuple):
    """One tensor of a quantized weight."""

    name: str
    num_bytes: int
    dtype: str


def stored(quantization: Quantization, num_out: int, num_in: int) -> tuple[Stored, ...]:
    """The tensors that a quantized linear weight of shape (out, in) becomes; its bias stays as it was.

    The first is the parameter itself. Excluded: the 1 KiB code table, one a process, that double quantization copies.
    """
    numel = num_out * num_in
    if quantization == "int8":
        return Stored("weight", numel, "int8"), Stored("SCB", num_out * 4, "float32")
    packed = Stored("weight", (numel + 1) // 2, "uint8")
    num_blocks = -(-numel // BLOCK_NUMEL)
    code = Stored("code", CODE_BYTES, "float32")
    if quantization != "nf4-double":
        return packed, Stored("absmax", num_blocks * 4, "float32"), code
    return (
        packed,
        Stored("absmax", num_blocks, "uint8"),
        code,
        Stored("offset", 4, "float32"),
        Stored("state2.absmax", -(-num_blocks // NESTED_BLOCK_NUMEL) * 4, "float32"),
        Stored("state2.code", NESTED_CODE_BYTES, "float32"),
    )


def stored_bytes(quantization: Quantization, num_out: int, num_in: int) -> int:
    """Bytes of a quantized weight with all its statistics."""
    return sum(tensor.num_bytes for tensor in stored(quantization, num_out, num_in))


def is_quantized(parameter: Parameter, path: str, heads: Collection[str]) -> bool:
    """Every linear and Conv1D weight but the heads'; norms, embeddings, biases and stacked experts stay."""
    return parameter.kind in ("linear", "conv1d") and path.removesuffix(".weight") not in heads


def head_modules(architecture: Architecture) -> frozenset[str]:
    """Modules that transformers leaves alone: the output embedding and whatever holds the model's last parameter.

    A tied output embedding shares the input embedding's weight, which is no linear's in the architecture.
    Source: transformers 5.23 wheel: quantizers/base.py (``get_keys_to_not_convert``).
    """
    last = architecture.stages[-1]
    path = f"{last.name}.{last.parameters[-1].name}" if last.name else last.parameters[-1].name
    return frozenset({"lm_head", "embed_out", path.rpartition(".")[0]})


def prepared_dtype(weight_dtype: str) -> str:
    """What ``peft.prepare_model_for_kbit_training`` makes of a weight that is not quantized; it also freezes it.

    Source: peft 0.21.2 wheel: utils/other.py.
    """
    return "float32" if weight_dtype in ("float16", "bfloat16") else weight_dtype


class Step(NamedTuple):
    """An allocation or free inside a quantized linear; ``output`` is what the layer returns."""

    action: Literal["alloc", "free"]
    name: str
    num_bytes: int


def bias_dtype(quantization: str | None, dtype: str, compute_dtype: str) -> str:
    """What the first forward makes of a quantized layer's bias for good: a 4-bit layer stores it in its compute dtype.

    An 8-bit layer stores it in its input's dtype, which is the other weights' where autocast is off.
    Source: bitsandbytes 0.50.2 wheel: nn/modules.py (``bias.data = bias.data.to(x.dtype)``).
    """
    return dtype if quantization == "int8" else compute_dtype


def output_dtype(quantization: Quantization, dtype: str, device_kind: str, training: bool, autocast: str | None) -> str:
    """Of a quantized product: the input's, but 8-bit training on the CPU is an ``F.linear``, which autocast lowers."""
    lowered = quantization == "int8" and device_kind == "cpu" and training
    return autocast if lowered and autocast is not None else dtype


def saves_input(quantization: Quantization) -> bool:
    """Whether the layer keeps its input for backward when the input needs a gradient.

    8-bit does, in the input's own dtype, on the autograd node and not through ``saved_tensors_hooks``; 4-bit does not.
    """
    return quantization == "int8"


def forward_steps(
    quantization: Quantization,
    tokens: int,
    num_out: int,
    num_in: int,
    dtype: str,
    device_kind: str,
    training: bool,
    autocast: str | None = None,
) -> tuple[Step, ...]:
    """What a quantized linear allocates in forward for ``tokens`` rows of input in ``dtype``.

    Between 5 and 1536 tokens bitsandbytes chooses between its fused 4-bit kernel and dequantizing by shape and
    architecture; memprof takes the larger, dequantizing. The casts of input and output from and to another dtype are
    not in here. Scalars are left out.
    """
    item = ITEM_BYTES[dtype]
    output = Step("alloc", "output", tokens * num_out * item)
    if quantization == "int8":
        if device_kind == "cpu" and training:
            return _int8_cpu_training(tokens, num_out, num_in, dtype, autocast or dtype)
        return _int8_forward(tokens, num_out, num_in, dtype)
    if tokens <= FUSED_MAX_TOKENS and num_in % BLOCK_NUMEL == 0 and device_kind != "cpu":
        return (output,)
    blocks = -(-(num_out * num_in) // BLOCK_NUMEL) * 4
    weight = num_out * num_in * item
    if quantization != "nf4-double":
        return _during(output, (Step("alloc", "dequantized", weight),))
    scaled, absmax = Step("alloc", "scaled_absmax", blocks), Step("alloc", "absmax", blocks)
    done = (_free(scaled),) if device_kind == "cpu" else ()  # on CUDA a variable holds it to the end
    return _during(output, (scaled, absmax, *done, Step("alloc", "dequantized", weight)))


def backward_steps(
    quantization: Quantization, tokens: int, num_out: int, num_in: int, dtype: str, weight_dtype: str
) -> tuple[Step, ...]:
    """What the gradient of a quantized linear's input allocates; ``output`` is that gradient.

    ``weight_dtype`` is the dtype that the weight had before it was quantized; 4-bit weights come back in it and are
    then cast to the gradient's.
    """
    item = ITEM_BYTES[dtype]
    gradient = Step("alloc", "output", tokens * num_in * item)
    if quantization == "int8":
        return _during(gradient, _dequantized_int8(num_out, num_in, item))
    weight = num_out * num_in
    back = Step("alloc", "dequantized", weight * ITEM_BYTES[weight_dtype])
    steps: tuple[Step, ...] = (back,)
    if quantization == "nf4-double":
        absmax = Step("alloc", "absmax", -(-weight // BLOCK_NUMEL) * 4)
        steps = (absmax, back, absmax._replace(action="free"))
    if weight_dtype != dtype:
        steps = (*steps, Step("alloc", "cast", weight * item), back._replace(action="free"))
    return _during(gradient, steps)


def _int8_cpu_training(tokens: int, num_out: int, num_in: int, dtype: str, autocast: str) -> tuple[Step, ...]:
    """Dequantize and multiply, which autocast does in its own dtype. Source: autograd/_functions.py, MatMul8bitFp."""
    steps = _dequantized_int8(num_out, num_in, ITEM_BYTES[dtype])
    item = ITEM_BYTES[autocast]
    if autocast != dtype:
        lower = Step("alloc", "lower_weight", num_out * num_in * item)
        steps = (*steps, lower, Step("alloc", "lower_input", tokens * num_in * item))
    return _during(Step("alloc", "output", tokens * num_out * item), steps)


def _int8_forward(tokens: int, num_out: int, num_in: int, dtype: str) -> tuple[Step, ...]:
    """Quantize the rows, multiply into int32, scale into float16, cast back. Fused bias adds nothing."""
    half = Step("alloc", "half_input", tokens * num_in * 2)
    scales, rows = Step("alloc", "row_stats", tokens * 4), Step("alloc", "int8_input", tokens * num_in)
    absolute, mask = Step("alloc", "absolute", tokens * num_in * 2), Step("alloc", "outliers", tokens * num_in)
    product, scaled = Step("alloc", "int32_output", tokens * num_out * 4), Step("alloc", "output", tokens * num_out * 2)
    cast_in = (half,) if dtype != "float16" else ()
    quantize = (*cast_in, scales, rows, absolute, mask, _free(absolute), _free(mask), *map(_free, cast_in))
    if dtype == "float16":
        return (*quantize, product, scaled, _free(product), _free(rows), _free(scales))
    half_output = scaled._replace(name="half_output")
    output = Step("alloc", "output", tokens * num_out * ITEM_BYTES[dtype])
    return (*quantize, product, half_output, output, _free(half_output), _free(product), _free(rows), _free(scales))


def _dequantized_int8(num_out: int, num_in: int, item: int) -> tuple[Step, ...]:
    scales = Step("alloc", "scales", num_out * 4)
    return Step("alloc", "dequantized", num_out * num_in * item), scales, _free(scales)


def _during(output: Step, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps, then the output, then the end of what is still alive."""
    freed = {step.name for step in steps if step.action == "free"}
    return (*steps, output, *(_free(step) for step in reversed(steps) if step.name not in freed))


def _free(step: Step) -> Step:
    return step._replace(action="free")

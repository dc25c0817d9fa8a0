"""Parts of a layout: what each kind of module contributes, in ``named_parameters()`` order."""

from __future__ import annotations

from memprof.model.architecture import Buffer, Kind, Parameter, Stage

Parameters = tuple[Parameter, ...]
Buffers = tuple[Buffer, ...]
Stages = tuple[Stage, ...]


def _weight_and_bias(name: str, shape: tuple[int, ...], kind: Kind, width: int, bias: bool) -> Parameters:
    weight = Parameter(f"{name}.weight", shape, kind)
    return (weight, Parameter(f"{name}.bias", (width,), "bias")) if bias else (weight,)


def linear(name: str, inputs: int, outputs: int, bias: bool = False) -> Parameters:
    """``nn.Linear``: weight (outputs, inputs)."""
    return _weight_and_bias(name, (outputs, inputs), "linear", outputs, bias)


def conv1d(name: str, inputs: int, outputs: int) -> Parameters:
    """``transformers.pytorch_utils.Conv1D``, a transposed linear: weight (inputs, outputs), and a bias."""
    return _weight_and_bias(name, (inputs, outputs), "conv1d", outputs, True)


def layer_norm(name: str, width: int, bias: bool = True) -> Parameters:
    """``nn.LayerNorm``."""
    return _weight_and_bias(name, (width,), "norm", width, bias)


def rms_norm(name: str, width: int) -> Parameters:
    """An RMS norm: one weight, no bias."""
    return _weight_and_bias(name, (width,), "norm", width, False)


def embedding(name: str, rows: int, width: int) -> Parameters:
    """``nn.Embedding``: weight (rows, width)."""
    return _weight_and_bias(name, (rows, width), "embedding", width, False)


def conv2d(name: str, inputs: int, outputs: int, size: int) -> Parameters:
    """``nn.Conv2d`` with a square kernel and a bias."""
    return _weight_and_bias(name, (outputs, inputs, size, size), "conv", outputs, True)


def free(name: str, *shape: int) -> Parameters:
    """A bare ``nn.Parameter`` that no linear, embedding, norm or convolution owns, such as stacked experts."""
    return (Parameter(name, shape, "other"),)


def rotary(name: str, dim: int, kind: str = "") -> Buffers:
    """The float32 frequency tables of a rotary embedding over ``dim`` channels: the one in use and the original."""
    return tuple(
        Buffer(f"{name}.{kind}{table}", ((dim + 1) // 2,), "float32") for table in ("inv_freq", "original_inv_freq")
    )


def root(parameters: Parameters, buffers: Buffers = ()) -> Stage:
    """A stage whose parameters carry full names: the stem or the head."""
    return Stage("", 1, parameters, buffers)


def decoder_head(task: str, width: int, vocab_size: int, num_labels: int, tied: bool) -> Parameters:
    """The head of the library's decoder classes: ``lm_head``, with no weight of its own where tied, or ``score``.

    Source: transformers 5.23: modeling_layers.py, GenericForSequenceClassification, GenericForTokenClassification.
    """
    if task == "causal-lm":
        return () if tied else linear("lm_head", width, vocab_size)
    return linear("score", width, num_labels, bias=task == "token-classification")

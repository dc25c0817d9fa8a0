"""bitsandbytes' 4-bit and 8-bit layers in the place of a model's linear ones, as transformers loads them.

Source: transformers 5.23 wheel, integrations/bitsandbytes.py (``replace_with_bnb_linear``, ``Bnb4bitQuantize``),
quantizers/base.py (``_assign_is_quantized``), quantizer_bnb_4bit.py.
"""

from __future__ import annotations

from typing import Any

from memprof.errors import ConfigError
from memprof.model.scenario import Quantization

_THRESHOLD = 6.0
"""Of outliers, which 8-bit layers keep in 16 bit; transformers' default."""


def quantize(model: Any, quantization: Quantization, compute_dtype: Any) -> None:
    """Every linear module but the head becomes a quantized one, and nothing is trained any more.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"{quantization} layers are bitsandbytes', which is not installed", "pip install 'memprof-gpu[torch]'"
        ) from None
    import torch
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert

    kept = set(get_keys_to_not_convert(model))
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear | Conv1D) and not any(_is_in(name, key) for key in kept):
            weight = module.weight.data if isinstance(module, torch.nn.Linear) else module.weight.data.T.contiguous()
            make = _int8 if quantization == "int8" else _four_bit
            layer = make(weight, module.bias, quantization, compute_dtype)
            layer.bias = module.bias
            model.set_submodule(name, layer)
    for module in model.modules():
        if getattr(module, "config", None) is not None:
            module.config._is_quantized = True  # noqa: SLF001 - flash-attn's caller asks for it
    setattr(model, "is_loaded_in_8bit" if quantization == "int8" else "is_loaded_in_4bit", True)  # PEFT asks for it
    model.requires_grad_(requires_grad=False)


def scales_of(weight: Any) -> list[Any]:
    """What bitsandbytes hangs on a quantized weight: scales, offsets and code tables."""
    import torch

    state = getattr(weight, "quant_state", None)
    states = [state, getattr(state, "state2", None)]
    parts = [getattr(state, name, None) for state in states for name in ("absmax", "code", "offset")]
    return [part for part in (*parts, getattr(weight, "SCB", None)) if isinstance(part, torch.Tensor)]


def _is_in(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.") or name.endswith(f".{key}")


def _int8(weight: Any, bias: Any, _: str, __: Any) -> Any:
    import bitsandbytes
    import torch

    num_out, num_in = weight.shape
    with _nothing_fake():
        layer = bitsandbytes.nn.Linear8bitLt(
            num_in, num_out, bias is not None, has_fp16_weights=False, threshold=_THRESHOLD, device="meta"
        )
    if not _is_fake(weight):
        unpacked = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        layer.weight = unpacked._quantize(weight.device)  # noqa: SLF001
        return layer
    packed, scales, _outliers = bitsandbytes.functional.int8_vectorwise_quant(weight.to(torch.float16))
    layer.weight = torch.nn.Parameter(packed, requires_grad=False)
    layer.weight.CB, layer.weight.SCB, layer.weight.has_fp16_weights = packed, scales, False
    return layer


def _four_bit(weight: Any, bias: Any, quantization: str, compute_dtype: Any) -> Any:
    import bitsandbytes
    import torch

    num_out, num_in = weight.shape
    settings = {"compress_statistics": quantization == "nf4-double", "quant_type": quantization.split("-")[0]}
    with _nothing_fake():
        layer = bitsandbytes.nn.Linear4bit(
            num_in, num_out, bias is not None, compute_dtype=compute_dtype, device="meta", **settings
        )
    if not _is_fake(weight):
        layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, **settings)._quantize(weight.device)  # noqa: SLF001
        return layer
    packed, state = bitsandbytes.functional.quantize_4bit(weight, **settings)
    layer.weight = torch.nn.Parameter(packed, requires_grad=False)
    layer.weight.quant_state = layer.quant_state = state
    for name, value in (settings | {"blocksize": state.blocksize, "bnb_quantized": True}).items():
        setattr(layer.weight, name, value)
    layer.weight.quant_storage, layer.weight.module = packed.dtype, layer
    return layer


def _nothing_fake() -> Any:
    """Where the layers make their place-holders, whose class cannot be a fake tensor's."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    return unset_fake_temporarily()


def _is_fake(tensor: Any) -> bool:
    """A parameter class of bitsandbytes cannot be a fake tensor's; a plain parameter stands in for it."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)

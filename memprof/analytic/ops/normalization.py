"""Norms, softmax and dropout."""

from __future__ import annotations

from memprof.analytic.autograd import Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.ops.pointwise import cast, mul, power, rsqrt, shift
from memprof.analytic.ops.reduce import mean_last
from memprof.semantics.kernels import layer_norm_backward_temporaries, layer_norm_statistics_dtype


def rms_norm(g: Graph, x: Tensor, weight: Tensor) -> Tensor:
    """``LlamaRMSNorm.forward``: computed in float32, handed on in the input's dtype."""
    dtype = x.dtype
    x = cast(g, x, "float32")
    variance = mean_last(g, power(g, x))
    x = mul(g, x, rsqrt(g, shift(g, variance)))
    return mul(g, weight, cast(g, x, dtype))


def layer_norm(g: Graph, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``native_layer_norm``: saves its input and the rows' mean and rstd (float32, but on the CPU the input's dtype).

    Under CUDA's autocast it runs in float32. Source: derivatives.yaml native_layer_norm; ATen/native/layer_norm.cpp.
    """
    if g.runs_in_float32("layer_norm"):
        x = cast(g, x, "float32")
        weight = cast(g, weight, "float32")
        bias = cast(g, bias, "float32") if bias is not None else None
    g.tape.op("native_layer_norm", 0, 2 * x.num_bytes)
    rows, width = x.numel // x.shape[-1], x.shape[-1]
    records = g.records(x, weight) or (bias is not None and g.records(bias))
    saved = (g.save(x), g.save(weight)) if records else None
    out = g.like(x)
    stats = layer_norm_statistics_dtype(g.semantics, x.dtype, weight.dtype)
    mean = g.new((rows,), stats)
    rstd = g.new((rows,), stats)
    if saved is None:
        return out
    saved_stats = (g.save(mean), g.save(rstd))
    x_shape, numel, weight_shape = x.shape, x.numel, weight.shape
    wants_x = x.node is not None
    wants_weight, wants_bias = weight.node is not None, bias is not None and bias.node is not None
    edges = (x.node, weight.node, bias.node if bias is not None else None)

    def backward(grad: Tensor) -> tuple[Tensor | None, ...]:
        assert saved is not None
        assert saved_stats
        grad_x = g.new(x_shape, grad.dtype, numel) if wants_x else None
        grad_weight = g.new(weight_shape, grad.dtype) if wants_weight else None
        grad_bias = g.new(weight_shape, grad.dtype) if wants_bias else None
        g.scratch(*(b.num_bytes for b in layer_norm_backward_temporaries(g.semantics, rows, width, grad.dtype)))
        return grad_x, grad_weight, grad_bias

    return g.record("NativeLayerNorm", out, edges, backward)


def softmax(g: Graph, x: Tensor, dtype: str) -> Tensor:
    """``softmax(x, -1, dtype)``: saves its result. CUDA converts float16 inside the kernel; all else is cast first.

    Source: ATen/native/SoftMax.cpp ``softmax`` (``half_to_float``); derivatives.yaml _softmax.
    """
    origin = x.dtype
    fused = g.cuda and origin == "float16" and dtype == "float32"
    if not fused:
        x = cast(g, x, dtype)
    g.tape.op("_softmax", 0, 2 * x.num_bytes)
    out = g.like(x, dtype)
    if not g.records(x):
        return out
    saved = g.save(out)
    backward_dtype = origin if fused else dtype

    def backward(grad: Tensor) -> Tensor:
        return g.like(saved, backward_dtype)

    return g.record("Softmax", out, (x.node,), backward)


def dropout(g: Graph, x: Tensor, rate: float) -> Tensor:
    """CUDA: the fused kernel saves a bool mask. CPU: noise of the input's dtype is drawn, scaled and multiplied in.

    Nothing happens outside training or at rate zero (the CPU multiplies by ones there only when training, at rate 0 the
    input is returned). Source: ATen/native/Dropout.cpp ``_dropout_impl``, ``is_fused_kernel_acceptable``.
    """
    if not g.training or rate == 0.0:
        return x
    records = g.records(x)
    if g.cuda:
        g.tape.op("native_dropout", 0, 2 * x.num_bytes)
        out = g.like(x)
        mask = g.like(x, "bool")
        if records:
            saved = g.save(mask)
            g.record("NativeDropout", out, (x.node,), lambda grad: g.like(saved, grad.dtype))
        return out
    g.tape.op("bernoulli_", 0, x.num_bytes)
    noise = g.like(x)
    return mul(g, x, noise)

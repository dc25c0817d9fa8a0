"""GPT-2 as an op program; follows the scoping of transformers 5.23, models/gpt2/modeling_gpt2.py."""

from __future__ import annotations

from typing import NamedTuple

from memprof.analytic.autograd import Tensor
from memprof.analytic.layer import Layer
from memprof.analytic.ops.activations import act
from memprof.analytic.ops.embedding import embedding
from memprof.analytic.ops.matmul import matmul
from memprof.analytic.ops.normalization import dropout, layer_norm, softmax
from memprof.analytic.ops.pointwise import add, cast, scale
from memprof.analytic.ops.shape import merge_heads, split, split_heads
from memprof.analytic.program import Attend, Program
from memprof.errors import UnsupportedError


def forward(p: Program, ids: Tensor) -> Tensor:
    """``GPT2Model.forward``: token ids (B, S) to the last hidden state (B, S, hidden)."""
    g, root = p.graph, p.root
    if p.config["reorder_and_upcast_attn"]:
        raise UnsupportedError(
            "the analytic engine does not model GPT-2's reorder_and_upcast_attn", "set it to false in the config"
        )
    root.enter("transformer.wte")
    embeds = p.input_gradients(embedding(g, ids, root["transformer.wte.weight"]))
    root.enter("transformer.wpe")
    positions = p.position_ids(ids)
    position_embeds = embedding(g, positions, root["transformer.wpe.weight"])
    root.enter("transformer")
    hidden = add(g, embeds, position_embeds)
    mask = p.causal_mask(ids, embeds.dtype)
    root.enter("transformer.drop")
    hidden = dropout(g, hidden, p.rate("embd_pdrop"))

    def layer(weights: Layer, x: Tensor) -> Tensor:
        return block(p, weights, x, Shared(mask, positions))

    box = [hidden]
    del hidden
    hidden = p.stack("transformer.h.*", layer, box, *(() if mask is None else (mask,)))
    root.enter("transformer.ln_f")
    return layer_norm(g, hidden, root["transformer.ln_f.weight"], root.get("transformer.ln_f.bias"))


class Shared(NamedTuple):
    """What every layer is handed: the mask and the position ids, which no op uses but a checkpoint keeps."""

    mask: Tensor | None
    positions: Tensor


def block(p: Program, w: Layer, x: Tensor, shared: Shared) -> Tensor:
    g = p.graph
    residual = x
    w.enter("ln_1")
    x = layer_norm(g, x, w["ln_1.weight"], w.get("ln_1.bias"))
    out, _ = attention(p, w, x, shared.mask)
    w.enter("")
    x = add(g, out, residual)
    residual = x
    w.enter("ln_2")
    x = layer_norm(g, x, w["ln_2.weight"], w.get("ln_2.bias"))
    mlp_out = mlp(p, w, x)
    w.enter("")
    return add(g, residual, mlp_out)


def attention(p: Program, w: Layer, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """``GPT2Attention.forward``: query, key and value are slices of one projection."""
    g, heads = p.graph, p.config["n_head"]
    width = p.config["n_embd"] // heads
    joined = w.linear(x, "attn.c_attn", transposed=True)
    w.enter("attn")
    query, key, value = split(g, joined, 3)
    del joined
    key, value = split_heads(g, key, heads, width), split_heads(g, value, heads, width)
    query = split_heads(g, query, heads, width)
    key, value = p.cache(w, key, value)
    call = Attend(query, key, value, mask, p.rate("attn_pdrop"), 1)
    out, probabilities = eager(p, call) if p.attention == "eager" else p.attend(call)
    out = merge_heads(g, out)
    out = w.linear(out, "attn.c_proj", transposed=True)
    out = dropout(g, out, p.rate("resid_pdrop"))
    return out, probabilities


def eager(p: Program, call: Attend) -> tuple[Tensor, Tensor]:
    """``eager_attention_forward``: softmax in the scores' own dtype (float32 under CUDA's autocast)."""
    g = p.graph
    query, key, value, mask, rate, _ = call
    batch, heads, length, width = query.shape
    weights = scale(g, matmul(g, query, key, (batch, heads, length, key.shape[2]), transposed=True))
    if mask is not None:
        weights = add(g, weights, mask)
    weights = softmax(g, weights, "float32" if g.runs_in_float32("softmax") else weights.dtype)
    weights = cast(g, weights, value.dtype)
    weights = dropout(g, weights, rate)
    return matmul(g, weights, value, (batch, heads, length, width)), weights


def mlp(p: Program, w: Layer, x: Tensor) -> Tensor:
    g = p.graph
    x = w.linear(x, "mlp.c_fc", transposed=True)
    w.enter("mlp.act")
    x = act(g, x, p.config["activation_function"])
    x = w.linear(x, "mlp.c_proj", transposed=True)
    return dropout(g, x, p.rate("resid_pdrop"))

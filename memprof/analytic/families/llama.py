"""Llama and the decoders shaped like it, as an op program.

Follows the scoping of transformers 5.23, models/llama/modeling_llama.py (Mistral, Qwen 2 and 3 differ by biases and by
norms over a head's channels): a variable here lives as long as its namesake there.
"""

from __future__ import annotations

from typing import NamedTuple

from memprof.analytic.autograd import Tensor
from memprof.analytic.graph import Graph
from memprof.analytic.layer import Layer
from memprof.analytic.ops.activations import act
from memprof.analytic.ops.embedding import embedding
from memprof.analytic.ops.matmul import matmul
from memprof.analytic.ops.normalization import dropout, rms_norm, softmax
from memprof.analytic.ops.pointwise import add, cast, mul, scale
from memprof.analytic.ops.shape import heads_inside, merge_heads, repeat_kv, rotate_half, split_heads
from memprof.analytic.program import Attend, Program


def forward(p: Program, ids: Tensor) -> Tensor:
    """``LlamaModel.forward``: token ids (B, S) to the last hidden state (B, S, hidden)."""
    g, c = p.graph, p.config
    p.root.enter("model.embed_tokens")
    embeds = embedding(g, ids, p.root["model.embed_tokens.weight"])
    embeds = p.input_gradients(embeds)
    positions = p.position_ids(ids)
    p.root.enter("model")
    mask = p.causal_mask(ids, embeds.dtype)
    p.root.enter("model.rotary_emb")
    cos, sin = rotary(g, positions, c["head_dim"], embeds.dtype)

    def layer(weights: Layer, x: Tensor) -> Tensor:
        return decoder_layer(p, weights, x, Shared(cos, sin, mask, positions))

    hidden = p.stack("model.layers.*", layer, [embeds])
    p.root.enter("model.norm")
    hidden = rms_norm(g, hidden, p.root["model.norm.weight"])
    return hidden  # by now the layers' output is gone, before the embeddings


class Shared(NamedTuple):
    """What every layer is handed: cosines and sines, the mask, the position ids."""

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    positions: Tensor


def rotary(g: Graph, positions: Tensor, width: int, dtype: str) -> tuple[Tensor, Tensor]:
    """``LlamaRotaryEmbedding.forward``: cosines and sines (1 or B, S, width), without gradients."""
    rows, length = positions.shape
    raw = cast(g, positions, "float32")
    g.tape.op("mul")
    freqs = g.new((rows, length, width // 2), "float32")  # noqa: F841 - held to the end, as the library does
    del raw
    g.tape.op("cat")
    emb = g.new((rows, length, width), "float32")
    cos = scale(g, g.like(emb))
    sin = scale(g, g.like(emb))
    return cast(g, cos, dtype), cast(g, sin, dtype)


def rotate(g: Graph, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """``apply_rotary_pos_emb`` of tensors (B, H, S, D)."""
    rotated = [add(g, mul(g, x, cos), mul(g, rotate_half(g, x), sin)) for x in (query, key)]
    return rotated[0], rotated[1]


def decoder_layer(p: Program, w: Layer, x: Tensor, shared: Shared) -> Tensor:
    g = p.graph
    residual = x
    w.enter("input_layernorm")
    x = rms_norm(g, x, w["input_layernorm.weight"])
    x, _ = attention(p, w, x, shared)
    w.enter("")
    x = add(g, residual, x)
    residual = x
    w.enter("post_attention_layernorm")
    x = rms_norm(g, x, w["post_attention_layernorm.weight"])
    x = mlp(p, w, x)
    w.enter("")
    return add(g, residual, x)


def attention(p: Program, w: Layer, x: Tensor, shared: Shared) -> tuple[Tensor, Tensor | None]:
    g, c = p.graph, p.config
    cos, sin, mask, _ = shared
    width, heads, kv_heads = c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]
    query = head_norm(g, w, split_heads(g, w.linear(x, "self_attn.q_proj"), heads, width), "self_attn.q_norm")
    key = head_norm(g, w, split_heads(g, w.linear(x, "self_attn.k_proj"), kv_heads, width), "self_attn.k_norm")
    value = split_heads(g, w.linear(x, "self_attn.v_proj"), kv_heads, width)
    w.enter("self_attn")
    query, key = rotate(g, query, key, cos, sin)
    key, value = p.cache(w, key, value)
    out, probabilities = attend(p, Attend(query, key, value, mask, p.rate("attention_dropout"), heads // kv_heads))
    out = merge_heads(g, out)
    out = w.linear(out, "self_attn.o_proj")
    return out, probabilities


def head_norm(g: Graph, w: Layer, x: Tensor, name: str) -> Tensor:
    """Qwen 3's norm over a head's channels, before the transpose; the other models have none."""
    weight = w.get(f"{name}.weight")
    if weight is None:
        return x
    w.enter(name)
    return rms_norm(g, x, weight)


def attend(p: Program, call: Attend) -> tuple[Tensor, Tensor | None]:
    return p.attend(call) if p.attention != "eager" else eager(p, call)


def eager(p: Program, call: Attend) -> tuple[Tensor, Tensor]:
    """``eager_attention_forward``: scores in full, softmax in float32."""
    g = p.graph
    query, key, value, mask, rate, groups = call
    dtype = query.dtype
    batch, heads, length, width = query.shape
    key, value = repeat_kv(g, key, groups), repeat_kv(g, value, groups)
    keys = key.shape[2]
    weights = scale(g, matmul(g, query, key, (batch, heads, length, keys), transposed=True))
    if mask is not None:
        weights = add(g, weights, mask)
    weights = cast(g, softmax(g, weights, "float32"), dtype)
    weights = dropout(g, weights, rate)
    out = matmul(g, weights, value, (batch, heads, length, width))
    return heads_inside(g, out), weights


def mlp(p: Program, w: Layer, x: Tensor) -> Tensor:
    g = p.graph
    return w.linear(
        mul(g, act(g, w.linear(x, "mlp.gate_proj"), p.config["hidden_act"]), w.linear(x, "mlp.up_proj")),
        "mlp.down_proj",
    )

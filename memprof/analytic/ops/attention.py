"""Attention in one call: plays the allocation script that the chosen kernel turns it into."""

from __future__ import annotations

from functools import lru_cache
from math import prod

from msgspec import structs

from memprof.analytic.autograd import Tensor
from memprof.analytic.graph import Graph, Scripted
from memprof.analytic.ops.matmul import lower
from memprof.semantics.attention import AttentionCall, Layout, Script, Step
from memprof.semantics.attention_choice import Backend, choose
from memprof.semantics.attention_scripts import attention_script
from memprof.semantics.device import Semantics


@lru_cache(maxsize=256)
def script_of(semantics: Semantics, call: AttentionCall, forced: Backend | None) -> Script:
    """The kernel PyTorch takes for a call, and what it does to memory."""
    return attention_script(semantics, choose(semantics, call, forced=forced), call)


def scaled_dot_product_attention(
    g: Graph,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool,
    dropout: float,
    enable_gqa: bool,
    forced: Backend | None = None,
) -> Tensor:
    """``F.scaled_dot_product_attention`` over (B, H, S, D) tensors; the script is in ``semantics.attention``."""
    if g.autocast is not None:
        value = lower(g, value)
        key = lower(g, key)
        query = lower(g, query)
    return _attend(
        g, query, key, value, mask, is_causal=is_causal, dropout=dropout, enable_gqa=enable_gqa, forced=forced
    )


def flash_attn(g: Graph, query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool, dropout: float) -> Tensor:
    """``flash_attn_func`` of the flash-attn library over (B, H, S, D) tensors, whose heads may be grouped."""
    return _attend(
        g, query, key, value, None, is_causal=is_causal, dropout=dropout, enable_gqa=True, forced="flash-attn"
    )


def _attend(
    g: Graph,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    is_causal: bool,
    dropout: float,
    enable_gqa: bool,
    forced: Backend | None,
) -> Tensor:
    batch, q_heads, q_len, width = query.shape
    _, kv_heads, kv_len, value_width = value.shape
    records = g.records(query, key, value)
    call = AttentionCall(
        batch=batch,
        q_heads=q_heads,
        kv_heads=kv_heads,
        q_len=q_len,
        kv_len=kv_len,
        head_dim=width,
        value_head_dim=value_width,
        dtype=query.dtype,
        mask_shape=None if mask is None else mask.shape,
        mask_dtype="bool" if mask is None else mask.dtype,
        is_causal=is_causal,
        dropout=dropout if g.training else 0.0,
        requires_grad=records,
        inputs_grad=(query.requires_grad, key.requires_grad, value.requires_grad) if records else (True, True, True),
        enable_gqa=enable_gqa,
        layout="bshd" if query.permuted or q_heads == 1 or q_len == 1 else "bhsd",
        repeated_kv=query.permuted and not key.permuted and kv_heads > 1,
    )
    script = script_of(g.semantics, call, forced)
    if script.unknown is not None:
        g.unknown.add(script.unknown)
    pairs = batch * q_heads * q_len * kv_len
    flops = 2 * pairs * (width + value_width) // (2 if is_causal else 1)
    name = "flash_attn_func" if script.kernel == "flash-attn" else f"scaled_dot_product_attention[{script.kernel}]"
    g.tape.op(name, flops, 2 * query.num_bytes + 2 * key.num_bytes)

    held: dict[str, Tensor] = {"query": query, "key": key, "value": value}
    if mask is not None:
        held["mask"] = mask
    if g.discarding and script.kernel == "math":  # many ops: what one of them saves is gone before the next begins
        freeing = script_of(g.semantics, structs.replace(call, requires_grad=False), "math")
        _play(g, freeing, freeing.forward, held)
    else:
        _play(g, script, script.forward, held)
    output = held.pop("output")
    _take_place(output, (batch, q_heads, q_len, value_width), script.output_layout)
    if not records:
        return output
    if g.discarding:
        for _ in script.saved:
            g.save(output)
        return g.record("Attention", output, (), lambda grad: None)
    held["output"] = output
    saved = {name: g.save(held[name]) for name in script.saved if name in held}
    node = Scripted("Attention", g.tape.module, (query.node, key.node, value.node), 5 * flops // 2)
    shapes = (query.shape, key.shape, value.shape)

    def play(box: list[Tensor]) -> list[Tensor | None]:
        buffers = {**saved, "grad_output": box.pop()}
        saved.clear()
        _play(g, script, script.backward, buffers)
        grads: list[Tensor | None] = [buffers.get(f"grad_{name}") for name in ("query", "key", "value")]
        for grad, shape in zip(grads, shapes, strict=True):
            if grad is not None:
                _take_place(grad, shape, script.output_layout)
        return grads

    node.play = play
    g.nodes.append(node)
    output.node = node
    return output


def _take_place(x: Tensor, shape: tuple[int, ...], layout: Layout) -> None:
    """A buffer as the caller sees it: of padded heads a slice, whose elements do not lie side by side in any order."""
    is_slice = x.shape[-1] != shape[-1]
    x.shape, x.numel = shape, prod(shape)
    x.permuted = layout == "bshd" and not is_slice and shape[1] > 1 and shape[2] > 1


def _play(g: Graph, script: Script, steps: tuple[Step, ...], held: dict[str, Tensor]) -> None:
    for allocates, name in steps:
        if not allocates:
            held.pop(name, None)
        else:
            buffer = script.buffers[name]
            held[name] = g.new(buffer.shape, buffer.dtype)

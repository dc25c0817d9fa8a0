"""Small models and shapes drawn at random, from a seed that a failing test shows."""

from __future__ import annotations

import os
import random
from typing import Any

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2")


def drawer() -> random.Random:
    """A source of draws. ``MEMPROF_TEST_SEED`` repeats a run; in CI it is fixed, so that a red test is the change's."""
    fixed = "0" if "CI" in os.environ else None
    seed = int(os.environ.get("MEMPROF_TEST_SEED") or fixed or random.SystemRandom().randrange(10**6))
    print(f"MEMPROF_TEST_SEED={seed}")  # noqa: T201 - pytest shows it where the test fails
    return random.Random(seed)


def config(draw: random.Random, family: str, max_layers: int = 4) -> dict[str, Any]:
    """A model of a few thousand parameters: one head or several, heads that share keys or not, odd widths, ties."""
    heads = draw.choice((1, 2, 3, 4, 6))
    width = draw.choice((2, 6, 8, 10, 16, 24, 34))
    values: dict[str, Any] = {
        "model_type": family,
        "vocab_size": draw.randint(20, 400),
        "tie_word_embeddings": draw.random() < 0.5,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    layers = draw.randint(1, max_layers)
    if family == "gpt2":
        return values | {
            "n_embd": heads * (width + draw.randint(0, 1)),
            "n_head": heads,
            "n_layer": layers,
            "n_positions": 256,
            "n_inner": draw.choice((None, draw.randint(8, 90))),
            "activation_function": draw.choice(("gelu_new", "gelu", "relu")),
        }
    values |= {
        "hidden_size": heads * width,
        "intermediate_size": draw.randint(8, 90),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice([n for n in range(1, heads + 1) if heads % n == 0]),
        "max_position_embeddings": 256,
        "hidden_act": draw.choice(("silu", "silu", "gelu_pytorch_tanh")),
    }
    if family != "qwen2":
        values |= {"hidden_size": heads * draw.randint(2, 20), "head_dim": width}
    if family == "mistral":  # no model has a window and a single key head, whose mask would bring other copies
        several = values["num_key_value_heads"] > 1 or heads == 1
        values["sliding_window"] = draw.choice((None, 33, 4096)) if several else None
    if family == "llama":
        values |= {"attention_bias": draw.random() < 0.5, "mlp_bias": draw.random() < 0.5}
    if family == "qwen3":
        values["attention_bias"] = draw.random() < 0.5
    return values


def shape(draw: random.Random) -> tuple[int, int]:
    """Sequences and tokens: a batch of one and a single token among them."""
    return draw.choice((1, 1, 2, 3, 5)), draw.choice((1, 2, 5, 16, 33, 64, draw.randint(3, 120)))

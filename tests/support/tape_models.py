"""The language model of the ``gpu_lm4x512_*`` tapes in plain PyTorch, written from their ``workload`` text.

What the text leaves open (which intermediate has a name and so lives until its function returns, that the optimizer
makes new tensors, that gradients go before the forward) was read off ``gpu_lm4x512_ctx100_train_fp32`` alone. The other
tapes are predicted with it as it stands. Tables and masks are kept on the host and copied to the device at each use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Sizes(NamedTuple):
    """Dimensions as the ``workload`` texts give them."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    hidden: int


def uploaded(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A host tensor copied to the device; on fakes of one device ``.to`` would do nothing."""
    return torch.empty(shape, dtype=dtype, device="cpu")


class Linear(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...i,oi->...o", x, self.weight)


class Embedding(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, width))

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids]


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        rms = torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        return x / rms * self.weight


def rotate(x: Tensor) -> Tensor:
    length, width = x.shape[-2:]
    cos, sin = uploaded(length, width // 2), uploaded(length, width // 2)
    turned = [x[..., ::2] * cos - x[..., 1::2] * sin, x[..., ::2] * sin + x[..., 1::2] * cos]
    return torch.cat([part.unsqueeze(-1) for part in turned], -1).view(x.shape)


def softmax(x: Tensor) -> Tensor:
    top = x.max(-1, keepdim=True).values
    return torch.exp(x - top) / torch.exp(x - top).sum(-1, keepdim=True)


def attend(mask: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key)
    root = torch.sqrt(uploaded(dtype=torch.int64))  # of the head width
    scaled = scores / root
    scaled.masked_fill_(~mask.bool(), -math.inf)
    return torch.einsum("bhqk,bhkd->bhqd", softmax(scaled), value)


class Attention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (Linear(sizes.width, sizes.width) for _ in range(4))
        self.heads = sizes.heads

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = (batch, length, self.heads, width // self.heads)
        projected = [part(x) for part in (self.query, self.key, self.value)]
        query, key, value = (each.view(heads).transpose(1, 2) for each in projected)
        del projected
        query = rotate(query)
        key = rotate(key)
        attended = attend(uploaded(length, length), query, key, value)
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        return self.out(attended)


class FeedForward(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.gate, self.down, self.up = (
            Linear(sizes.width, sizes.hidden),
            Linear(sizes.hidden, sizes.width),
            Linear(sizes.width, sizes.hidden),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        return self.down(gate * torch.sigmoid(gate) * self.up(x))


class Block(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(sizes.width), RMSNorm(sizes.width)
        self.attention = Attention(sizes)
        self.feed_forward = FeedForward(sizes)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention(self.norm1(x))
        x = x + attended
        fed = self.feed_forward(self.norm2(x))
        return x + fed


class LanguageModel(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = Embedding(sizes.vocabulary, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm = RMSNorm(sizes.width)
        self.head = Linear(sizes.width, sizes.vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def last_position(logits: Tensor) -> Tensor:
    """``logits[:, -1, :]`` as torch 2.6 does it: a full slice is an op of its own."""
    return logits.narrow(0, 0, len(logits)).select(1, -1).narrow(1, 0, logits.shape[-1])


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    top = logits.max(-1, keepdim=True).values
    log_probabilities = (logits - top) - torch.log(torch.exp(logits - top).sum(-1, keepdim=True))
    chosen = torch.zeros_like(log_probabilities).scatter_(-1, targets.unsqueeze(-1), 1)
    return -(log_probabilities * chosen).sum() / len(logits)


class AdamW:
    """New tensors for moments and weights in each step; the last parameter's old moments live until it returns.

    Args:
        at_once: whether the moments are made with the optimizer, or else in its first step.
    """

    def __init__(self, model: nn.Module, *, at_once: bool) -> None:
        self.parameters = list(model.parameters())
        self.first: dict[Tensor, Tensor] = {}
        self.second: dict[Tensor, Tensor] = {}
        if at_once:
            for parameter in self.parameters:
                self._start(parameter)

    def _start(self, parameter: Tensor) -> None:
        self.first[parameter] = torch.zeros_like(parameter)
        self.second[parameter] = torch.zeros_like(parameter)

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.parameters:
            if parameter not in self.first:
                self._start(parameter)
            gradient = parameter.grad
            first = self.first[parameter]
            new_first = 0.9 * first + 0.1 * gradient
            second = self.second[parameter]
            new_second = 0.999 * second + 0.001 * gradient**2
            parameter.data = parameter.data - 1e-3 * (new_first / (torch.sqrt(new_second) + 1e-8))
            parameter.data = parameter.data - 1e-5 * parameter.data
            self.first[parameter] = new_first
            self.second[parameter] = new_second


def training_steps(model: LanguageModel, optimizer: AdamW, ids: Tensor, targets: Tensor) -> Iterator[None]:
    """Step after step; logits and loss of one live until the next has its own."""
    while True:
        optimizer.zero_grad()
        logits = model(ids)
        loss = cross_entropy(last_position(logits), targets)
        loss.backward()
        yield
        optimizer.step()
        yield

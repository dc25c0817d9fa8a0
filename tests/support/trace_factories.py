"""Factories as a user would write them: one that works in each form, and some that fail."""

from __future__ import annotations

import torch
from torch import nn


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.mean() > 0 else x


def regression(batch_size: int = 1) -> tuple[nn.Module, dict[str, torch.Tensor], object]:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(128, 512), nn.ReLU(), nn.Linear(512, 4))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.body(x) - y

    inputs = {"x": torch.randn(64 * batch_size, 128), "y": torch.randn(64 * batch_size, 4)}
    return Net(), inputs, lambda outputs, _: outputs.square().mean()


def scalar() -> tuple[nn.Module, torch.Tensor]:
    class Total(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).sum()

    return Total(32, 32), torch.randn(8, 32)


def half() -> tuple[nn.Module, torch.Tensor, object]:
    model = nn.Linear(32, 32).to(torch.bfloat16)
    return model, torch.randn(8, 32, dtype=torch.bfloat16), lambda outputs, _: outputs.sum()


def data_dependent() -> tuple[nn.Module, torch.Tensor, object]:
    return nn.Sequential(nn.Linear(8, 8), Gate()), torch.randn(4, 8), lambda outputs, _: outputs.sum()


def mismatched() -> tuple[nn.Module, torch.Tensor, object]:
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(3, 3)), torch.randn(4, 8), lambda outputs, _: outputs.sum()


def lossless() -> tuple[nn.Module, torch.Tensor]:
    return nn.Linear(8, 8), torch.randn(4, 8)


def raising() -> nn.Module:
    raise KeyError("weights")


def number() -> int:
    return 7


@torch.library.custom_op("memprof_tests::without_fake", mutates_args=())
def without_fake(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


def custom_op() -> tuple[nn.Module, torch.Tensor, object]:
    class Custom(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return without_fake(x) + super().forward(x)

    return nn.Sequential(Custom(8, 8)), torch.randn(4, 8), lambda outputs, _: outputs.sum()

"""Models whose runs end badly, as users' may."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

CHILD_FILE = "MEMPROF_TEST_CHILD"
"""Of the environment: where ``hanging`` writes its process' id and that of one it started; without it, it is fine."""


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(x, FakeTensor):
            self.fail()
        return self.layer(x).square().mean()

    def fail(self) -> None:
        """Here a real run ends; fake ones pass."""


class _Large(_Net):
    def fail(self) -> None:
        torch.empty(1 << 46, dtype=torch.uint8)


class _Hanging(_Net):
    def fail(self) -> None:
        if CHILD_FILE in os.environ:
            started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            draft = Path(f"{os.environ[CHILD_FILE]}.part")
            draft.write_text(f"{os.getpid()} {started.pid}")
            draft.replace(os.environ[CHILD_FILE])
            time.sleep(600)


class _AbortingEverywhere(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        os.abort()


def fine() -> tuple[nn.Module, torch.Tensor]:
    return _Net(), torch.randn(8, 64)


def large() -> tuple[nn.Module, torch.Tensor]:
    return _Large(), torch.randn(8, 64)


def aborting_everywhere() -> tuple[nn.Module, torch.Tensor]:
    return _AbortingEverywhere(64, 64), torch.randn(8, 64)


def hanging() -> tuple[nn.Module, torch.Tensor]:
    return _Hanging(), torch.randn(8, 64)

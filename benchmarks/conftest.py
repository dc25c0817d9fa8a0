"""Benchmarks run under what the tests rely on."""

from __future__ import annotations

from tests.conftest import settings

__all__ = ["settings"]

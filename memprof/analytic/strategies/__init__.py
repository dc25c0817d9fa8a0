"""Distributed strategies as hooks around a program: what each adds to load, forward, backward and the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memprof.analytic.graph import Graph
from memprof.analytic.strategies.base import Strategy
from memprof.model.scenario import Parallelism
from memprof.semantics.precision import Plan

if TYPE_CHECKING:
    from memprof.semantics.zero import Stage

_STAGES: dict[str, Stage] = {"zero1": 1, "zero2": 2, "zero3": 3}


def strategy_for(graph: Graph, plan: Plan, parallelism: Parallelism) -> Strategy:
    """The strategy that a scenario's ``parallelism`` names; only its own module is imported."""
    name, world = parallelism.strategy, parallelism.data
    if name == "ddp":
        from memprof.analytic.strategies.ddp import DistributedDataParallel

        return DistributedDataParallel(graph)
    if name in ("fsdp", "hsdp"):
        from memprof.analytic.strategies.fsdp import FullyShard

        return FullyShard(graph, plan, world, parallelism.replicate)
    if name in _STAGES:
        from memprof.analytic.strategies.zero import Zero
        from memprof.semantics.zero import DEFAULTS

        return Zero(graph, plan, _STAGES[name], world, parallelism.zero or DEFAULTS)
    return Strategy(graph)

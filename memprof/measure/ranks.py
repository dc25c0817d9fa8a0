"""The process group of a real run: that of its peers under torchrun, or a fake one in which this process is rank 0.

Ranks that torchrun or ``accelerate launch`` started are processes that each start one of their own for a run; those
meet at torchrun's store, under a name of the run's, as a second run of the same ranks is another group.

On a CPU the fake group's collectives get gloo's scratch, so that it takes what rank 0 of real ones takes.

Source: https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from memprof.errors import MeasurementError, UnsupportedError
from memprof.model.scenario import Parallelism, Scenario
from memprof.workload.deepspeed import STAGES, refuse_without_deepspeed
from memprof.workload.parallel import mesh_of, replicate, shard, world_size
from memprof.workload.ranks import ddp_alone, hand_back_buckets, rank_zero
from memprof.workload.workload import Workload

Backend = Literal["gloo", "nccl", "fake"]


def backend_of(scenario: Scenario, meeting: str | None) -> Backend | None:
    """Whose collectives a scenario's ranks use, ``meeting`` as in ``joined``; None for one rank alone."""
    if world_size(scenario.parallelism) == 1:
        return None
    if meeting is None:
        return "fake"
    return "gloo" if scenario.device == "cpu" else "nccl"


class Rank(NamedTuple):
    """Which of how many processes this is; ``local`` is its number on its machine, and that of its card."""

    number: int
    local: int
    world: int


def launched() -> Rank | None:
    """As which rank torchrun or ``accelerate launch`` started this process; None where neither did."""
    try:
        rank = Rank(*(int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))
    except (KeyError, ValueError):
        return None
    return rank if rank.world > 1 else None


def refuse_unrun(parallelism: Parallelism, *, alone: bool) -> None:
    """Nothing where ranks can be run for real; ``alone``: by this process as rank 0.

    Raises:
        ConfigError: DeepSpeed is asked for and not installed.
        UnsupportedError: says which field, and what to do.
    """
    if parallelism.strategy in STAGES:
        refuse_without_deepspeed()
        if alone:
            raise UnsupportedError(
                f"{parallelism.strategy} is not run by rank 0 alone, as DeepSpeed's ranks need each other",
                f"torchrun --nproc-per-node {world_size(parallelism)} -m memprof verify FILE",
            )
    for name in ("pipeline", "context", "expert"):
        if getattr(parallelism, name) > 1:
            raise UnsupportedError(f"verify does not run parallelism.{name} > 1", "leave it at 1")


@dataclass(frozen=True)
class Group:
    """The ranks of a run.

    Attributes:
        mesh: of the degrees above one; None where there is one rank alone.
        backend: of the process group; None where there is none.
    """

    mesh: Any
    backend: Backend | None

    def shard(self, model: Any, scenario: Scenario) -> None:
        """Splits the parameters, in place."""
        shard(model, scenario, self.mesh)

    def replicate(self, workload: Workload, scenario: Scenario) -> Workload:
        """The workload in DDP, where the scenario asks for it."""
        if self.backend != "fake" or scenario.parallelism.strategy != "ddp":
            return replicate(workload, scenario, self.mesh)
        with ddp_alone():
            wrapped = replicate(workload, scenario, self.mesh)
        hand_back_buckets(wrapped.model)
        return replace(workload, model=wrapped.model)


@contextmanager
def joined(scenario: Scenario, meeting: str | None) -> Iterator[Group]:
    """While open, the process group is there; of a run on CUDA, the card of the rank's local number is current.

    Args:
        scenario: what each rank runs.
        meeting: name under which the ranks of this run find each other; None: this process is rank 0, alone.

    Raises:
        UnsupportedError: such ranks cannot be run for real.
    """
    refuse_unrun(scenario.parallelism, alone=meeting is None)
    backend, parallelism = backend_of(scenario, meeting), scenario.parallelism
    device_type = "cpu" if scenario.device == "cpu" else "cuda"
    with ExitStack() as stack:
        if backend is None:
            mesh = None
        elif meeting is None:
            mesh = stack.enter_context(rank_zero(parallelism, device_type))
            if device_type == "cpu":
                from memprof.measure.gloo import scratch

                stack.enter_context(scratch())
        else:
            stack.enter_context(_met(backend, device_type, meeting))
            mesh = mesh_of(parallelism, device_type)
        yield Group(mesh, backend)


@contextmanager
def _met(backend: Backend, device_type: str, meeting: str) -> Iterator[None]:
    """The process group of real ranks."""
    import torch
    import torch.distributed as dist

    rank = launched()
    if rank is None:
        raise MeasurementError("the ranks of this run do not know their numbers", "start them with torchrun")
    if device_type == "cuda":
        torch.cuda.set_device(rank.local)
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False
    )
    dist.init_process_group(backend, store=dist.PrefixStore(meeting, store), rank=rank.number, world_size=rank.world)
    yield
    dist.destroy_process_group()  # a rank that failed first answers; with its process its peers lose it, and fail too

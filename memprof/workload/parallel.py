"""A scenario's parallelism put around the real model: tensor-parallel plans, ``fully_shard``, DDP.

Ranks form a mesh of replicas x data x tensor, of which the degrees above one are there. Process groups are the
caller's: real ones (NCCL, gloo) or those of `memprof.trace.ranks`, in which rank 0 is alone.

Sharded as torchtitan and accelerate do it: each transformer block is a unit of ``fully_shard`` and the root is one;
blocks are resharded after forward and the root is not, which is the default. DDP keeps its own defaults, which are
accelerate's too. A tensor-parallel plan is the model's own, applied by transformers.

Source: torch 2.13 wheel: torch/distributed/fsdp/_fully_shard/_fully_shard.py; accelerate 1.15: utils/fsdp_utils.py
(fsdp2_prepare_auto_wrap_policy), utils/dataclasses.py (DistributedDataParallelKwargs); transformers 5.23 wheel:
distributed/mixin.py (maybe_distribute_model).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from memprof.errors import ConfigError, UnsupportedError
from memprof.model.scenario import Parallelism, Scenario
from memprof.semantics.precision import plan
from memprof.workload.workload import Workload

REPLICATE, DATA, TENSOR = "replicate", "data", "tensor"


def world_size(parallelism: Parallelism) -> int:
    """Ranks in all."""
    return parallelism.replicate * parallelism.data * parallelism.tensor


def mesh_of(parallelism: Parallelism, device_type: str) -> Any:
    """The mesh over the process group that is open, the dimensions of degree one left out; None for one rank alone."""
    from torch.distributed.device_mesh import init_device_mesh

    degrees = {REPLICATE: parallelism.replicate, DATA: parallelism.data, TENSOR: parallelism.tensor}
    shape = {name: degree for name, degree in degrees.items() if degree > 1}
    if not shape:
        return None
    return init_device_mesh(device_type, tuple(shape.values()), mesh_dim_names=tuple(shape))


def shard(model: Any, scenario: Scenario, mesh: Any) -> None:
    """Splits a model's parameters over the mesh, in place: tensor parallelism first, then FSDP2 or HSDP.

    Raises:
        ConfigError: tensor parallelism would cut through a head.
        UnsupportedError: the model has no tensor-parallel plan.
    """
    parallelism = scenario.parallelism
    if parallelism.tensor > 1:
        _tensor_parallel(model, mesh[TENSOR])
    if parallelism.strategy in ("fsdp", "hsdp"):
        _fully_shard(model, scenario, mesh)


def replicate(workload: Workload, scenario: Scenario, mesh: Any) -> Workload:
    """The workload with its model in DDP, where the scenario asks for that; else itself."""
    if scenario.parallelism.strategy != "ddp":
        return workload
    from torch.nn.parallel import DistributedDataParallel

    model = DistributedDataParallel(workload.model, process_group=mesh[DATA].get_group())
    return dataclasses.replace(workload, model=model)


def blocks(model: Any) -> list[Any]:
    """The transformer blocks, in order; empty where the model has no repeated parts.

    A Hugging Face model names the classes itself; another's blocks are what its outermost module lists hold.
    """
    from torch.nn import ModuleList

    classes = set(getattr(model, "_no_split_modules", None) or ())
    if classes:
        return [module for module in model.modules() if type(module).__name__ in classes]
    found: list[Any] = []
    waiting = [model]
    while waiting:
        children = list(waiting.pop().children())
        for child in children:
            if isinstance(child, ModuleList):
                found += child
            else:
                waiting.append(child)
    return found


def _tensor_parallel(model: Any, mesh: Any) -> None:
    styles = getattr(model, "tp_plan", None)
    if not styles:
        raise UnsupportedError(
            f"{type(model).__name__} has no tensor-parallel plan of its own", "leave parallelism.tensor at 1"
        )
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    if heads % mesh.size():
        raise ConfigError(
            f"parallelism.tensor is {mesh.size()}, which does not divide the {heads} key-value heads of the model",
            "choose one of its divisors",
        )
    from transformers.distributed.configuration_utils import DistributedConfig
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism

    resolved, _, _ = model._resolve_parallel_plans(DistributedConfig(tp_size=mesh.size()))  # noqa: SLF001
    apply_tensor_parallelism(model, mesh, resolved)
    model.tie_weights()


def _fully_shard(model: Any, scenario: Scenario, mesh: Any) -> None:
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    names = (REPLICATE, DATA) if scenario.parallelism.strategy == "hsdp" else (DATA,)
    rows = plan(scenario.precision, scenario.parallelism.strategy)
    policy = MixedPrecisionPolicy()
    if rows.gather != rows.weights:
        policy = MixedPrecisionPolicy(param_dtype=getattr(torch, rows.gather), reduce_dtype=getattr(torch, rows.reduce))
    for module in (*blocks(model), model):
        fully_shard(module, mesh=mesh[names], mp_policy=policy)

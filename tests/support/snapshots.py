"""Snapshots as each generation of PyTorch writes them, made from tapes: a real one takes a GPU."""

from __future__ import annotations

import copy
from typing import Any

GENERATIONS = ("2.0", "2.1", "2.2", "2.6", "2.13")


def as_written_by(version: str, snapshot: dict[str, Any]) -> dict[str, Any]:
    """``snapshot``, in the newest layout, as an older PyTorch would have written it.

    Source: torch/csrc/cuda/Module.cpp ``THCPModule_memorySnapshot`` of each version: 2.0 has ``history`` instead of
    ``requested_size`` and ``frames``, 2.2 added ``time_us`` and ``allocator_settings``, 2.6 ``compile_context`` and
    ``external_annotations``, 2.9 ``user_metadata``, later ``pool_id``.
    """
    made = copy.deepcopy(snapshot)
    index = GENERATIONS.index(version)
    for segment in made["segments"]:
        if index < 1:
            for key in ("segment_pool_id", "is_expandable", "requested_size", "frames"):
                del segment[key]
        for block in segment["blocks"]:
            if index < 2:
                del block["address"]
            if index < 1:
                frames, real = block.pop("frames"), block.pop("requested_size")
                if block["state"] != "inactive":
                    block["history"] = [{"addr": 0, "real_size": real, "frames": frames}]
            if block["state"] == "active_awaiting_free":
                block["state"] = "active_pending_free"
    for trace in made["device_traces"]:
        for number, entry in enumerate(trace):
            entry.pop("category", None)
            if index >= 2:
                entry["time_us"] = 1_700_000_000_000_000 + number
            if index >= 3:
                entry["compile_context"] = "N/A"
            if index >= 4:
                entry |= {"user_metadata": "", "pool_id": (0, 0)}
    if index < 2:
        del made["allocator_settings"]
    if index < 3:
        del made["external_annotations"]
    return made

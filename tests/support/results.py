"""Results built by hand, so that views are tested without an engine."""

from __future__ import annotations

from typing import Any

import msgspec

from memprof.model.result import Alternative, DeviceSummary, Evidence, Made, Peak, Result, Verdict
from memprof.model.scenario import Scenario, to_builtins
from memprof.units import GiB, MiB

TOTAL_BYTES = 81_089 * MiB


def make_result(**changes: Any) -> Result:
    """Full training of llama-13b on an 80 GB card, which does not fit; ``changes`` replace fields."""
    parts = {
        "weights": 48 * GiB,
        "gradients": 48 * GiB,
        "optimizer_states": 96 * GiB,
        "activations": 3 * GiB,
        "temporaries": 0,
        "rounding": 10 * MiB,
    }
    allocated = sum(parts.values())
    result = Result(
        memprof_version="0.1.0",
        engine="analytic",
        scenario=to_builtins(Scenario(model="llama-13b")),
        device=DeviceSummary(name="h100-80gb", total_bytes=TOTAL_BYTES),
        num_parameters=13_015_864_320,
        num_trainable_parameters=13_015_864_320,
        peak=Peak(
            requested_bytes=allocated - 10 * MiB,
            allocated_bytes=allocated,
            reserved_bytes=None,
            device_bytes=None,
            phase="backward",
            module="lm_head",
        ),
        at_peak_bytes=parts,
        persistent_bytes={name: parts[name] for name in ("weights", "gradients", "optimizer_states")},
        phase_peak_bytes={"load": 48 * GiB, "first_step": allocated, "forward": 60 * GiB, "backward": allocated},
        overhead_bytes={"fragmentation": None, "context": None, "communicators": None},
        verdict=Verdict(status="does_not_fit", headroom_bytes=TOTAL_BYTES - allocated),
        alternatives=[
            Alternative(
                name="pure bf16, 8-bit Adam, full checkpointing",
                change={"precision": "bf16"},
                allocated_bytes=75 * GiB,
                device_bytes=None,
                status="fits",
            ),
            Alternative(
                name="FSDP over 8",
                change={"parallelism.strategy": "fsdp"},
                allocated_bytes=None,
                device_bytes=None,
                status="unknown",
                reason="not modelled yet",
            ),
        ],
        evidence=Evidence(rung="analytic", basis="op rules, checked on the CPU"),
        warnings=["reserved and device bytes are not known yet, so the verdict speaks of allocated bytes"],
        made=Made(
            command="memprof estimate llama-13b", software={"memprof": "0.1.0"}, created_at="2025-01-01T00:00:00Z"
        ),
    )
    return msgspec.structs.replace(result, **changes)

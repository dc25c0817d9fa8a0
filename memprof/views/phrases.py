"""The sentences and rows that several views share."""

from __future__ import annotations

from typing import Any

from memprof.model.result import Alternative, Result
from memprof.units import GiB, format_count, gib

STATUS = {"fits": "fits", "tight": "tight", "does_not_fit": "does not fit", "unknown": "unknown"}


def answer(result: Result) -> str:
    """``61.20 of 79.25 GiB (77 %): fits, 18.05 GiB to spare``; says so where only allocated bytes are known."""
    used, metric = _used(result)
    note = f" ({metric} bytes)" if metric != "device" else ""
    total, headroom = result.device.total_bytes, result.verdict.headroom_bytes
    if total is None or headroom is None:
        return f"{gib(used)} on {result.device.name}: its memory is not known{note}"
    share = f"{used / GiB:,.2f} of {gib(total)} ({_percent(used, total)})"
    left = f"{gib(headroom)} to spare" if headroom >= 0 else f"{gib(-headroom)} too much"
    return f"{share}: {STATUS[result.verdict.status]}, {left}{note}"


def model_line(result: Result) -> str:
    """``llama-13b: 13.02 B parameters, 6.55 M of them trained``."""
    line = f"{result.scenario['model']}: {format_count(result.num_parameters)} parameters"
    trained = result.num_trainable_parameters
    return line if trained == result.num_parameters else f"{line}, {format_count(trained)} of them trained"


def scenario_line(result: Result) -> str:
    """What was asked, in one line: mode, shape, precision, optimizer and whatever is not the default."""
    s = result.scenario
    batch, parallelism, adapter = s["batch"], s["parallelism"], s["adapter"]
    train = s["mode"] == "train"
    shape = [batch["micro_batch_size"], batch["sequence_length"] or batch["image_size"]]
    accumulation = batch["gradient_accumulation_steps"]
    gpus = [f"{name} {parallelism[name]}" for name in _DEGREES if parallelism[name] > 1]
    parts = [
        s["mode"],
        f"micro-batch {' x '.join(str(size) for size in shape if size)}",
        f"x {accumulation} accumulated" if accumulation > 1 else "",
        f"{batch['new_tokens']} new tokens" if batch["new_tokens"] else "",
        s["precision"],
        f"attention {s['attention']}",
        _optimizer(s["optimizer"]) if train else "",
        f"checkpointing {_checkpointing(s['checkpointing'])}" if train else "",
        f"{adapter['type']} rank {adapter['rank']}" if adapter else "",
        f"{s['quantization']} weights" if s["quantization"] else "",
        f"{parallelism['strategy']} ({', '.join(gpus)})" if gpus else "",
        f"{' and '.join(s['offload'])} in host memory" if s["offload"] else "",
        f"on {result.device.name}",
    ]
    return ", ".join(part for part in parts if part)


def component_rows(result: Result) -> list[tuple[str, int, str, float]]:
    """(component, bytes, percent, share) of what is allocated at the peak, largest first; empty parts are left out."""
    whole = max(result.peak.allocated_bytes, 1)
    parts = sorted(result.at_peak_bytes.items(), key=lambda part: -part[1])
    return [(spelled(name), size, _percent(size, whole), size / whole) for name, size in parts if size]


def alternative_row(alternative: Alternative) -> tuple[str, str, str]:
    """(name, peak, verdict or the reason why there is none)."""
    size = alternative.device_bytes if alternative.device_bytes is not None else alternative.allocated_bytes
    verdict = STATUS[alternative.status]
    if alternative.reason:
        verdict = alternative.reason if alternative.status == "unknown" else f"{verdict}: {alternative.reason}"
    return alternative.name, "" if size is None else gib(size), verdict


def advice(result: Result) -> str | None:
    """What to do where it does not fit: the first of the other ways that does, or that none does; else None."""
    if result.verdict.status not in ("does_not_fit", "tight") or not result.alternatives:
        return None
    fitting = next((way for way in result.alternatives if way.status == "fits"), None)
    if fitting is None:
        return "none of the other ways to run it fits: choose a larger device, or a shorter sequence"
    name, peak, _ = alternative_row(fitting)
    return f"to make it fit, try: {name} ({peak} allocated)"


def peak_place(result: Result) -> str:
    """``backward of lm_head``."""
    return f"{result.peak.phase} of {result.peak.module}" if result.peak.module else result.peak.phase


def term_values(values: Any) -> str:
    """``hidden=5120, seq=2048`` of a term's values."""
    if isinstance(values, dict):
        return ", ".join(f"{name}={value}" for name, value in values.items())
    return str(values)


def spelled(name: str) -> str:
    """``optimizer states`` of ``optimizer_states``."""
    return name.replace("_", " ")


_DEGREES = ("data", "replicate", "tensor", "pipeline", "context", "expert")


def _used(result: Result) -> tuple[int, str]:
    """The widest of the three numbers that is known, and its name."""
    peak = result.peak
    if peak.device_bytes is not None:
        return peak.device_bytes, "device"
    if peak.reserved_bytes is not None:
        return peak.reserved_bytes, "reserved"
    return peak.allocated_bytes, "allocated"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"


def _optimizer(optimizer: dict[str, Any]) -> str:
    implementation = optimizer["implementation"]
    return optimizer["name"] if implementation == "auto" else f"{optimizer['name']} ({implementation})"


def _checkpointing(value: Any) -> str:
    return f"every {value['every']} layers" if isinstance(value, dict) else str(value)

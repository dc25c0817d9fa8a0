from __future__ import annotations

import msgspec
import pytest

from memprof.model.result import Alternative, DeviceSummary, Verdict
from memprof.model.scenario import Adapter, Batch, Parallelism, Scenario, SelectiveCheckpointing, to_builtins
from memprof.units import GiB
from memprof.views import phrases
from tests.support.results import make_result

PEAK = make_result().peak


def test_the_answer_says_used_total_share_verdict_and_what_is_left() -> None:
    result = make_result(
        device=DeviceSummary(name="a100-80gb", total_bytes=int(79.25 * GiB)),
        peak=msgspec.structs.replace(PEAK, reserved_bytes=60 * GiB, device_bytes=int(61.2 * GiB)),
        verdict=Verdict(status="fits", headroom_bytes=int(18.05 * GiB)),
    )
    assert phrases.answer(result) == "61.20 of 79.25 GiB (77 %): fits, 18.05 GiB to spare"


def test_what_does_not_fit_says_by_how_much() -> None:
    result = make_result(peak=msgspec.structs.replace(PEAK, device_bytes=PEAK.allocated_bytes))
    assert phrases.answer(result) == "195.01 of 79.19 GiB (246 %): does not fit, 115.82 GiB too much"


def test_the_answer_says_where_only_allocated_bytes_are_known() -> None:
    assert phrases.answer(make_result()).endswith("115.82 GiB too much (allocated bytes)")


def test_an_unknown_capacity_is_not_a_number() -> None:
    result = make_result(
        device=DeviceSummary(name="cpu", total_bytes=None), verdict=Verdict(status="unknown", headroom_bytes=None)
    )
    assert phrases.answer(result) == "195.01 GiB on cpu: its memory is not known (allocated bytes)"


def test_the_scenario_line_names_what_was_asked() -> None:
    scenario = Scenario(
        model="gpt2",
        batch=Batch(micro_batch_size=4, sequence_length=1024, gradient_accumulation_steps=8),
        adapter=Adapter(rank=8),
        quantization="nf4",
        checkpointing=SelectiveCheckpointing(every=2),
        parallelism=Parallelism(strategy="hsdp", data=4, replicate=2),
        offload=("optimizer", "parameters"),
    )
    assert phrases.scenario_line(make_result(scenario=to_builtins(scenario))) == (
        "train, micro-batch 4 x 1024, x 8 accumulated, bf16-mixed, attention sdpa, adamw, "
        "checkpointing every 2 layers, lora rank 8, nf4 weights, hsdp (data 4, replicate 2), "
        "optimizer and parameters in host memory, on h100-80gb"
    )


def test_inference_names_no_optimizer() -> None:
    line = phrases.scenario_line(make_result(scenario=to_builtins(Scenario(model="gpt2", mode="inference"))))
    assert "adamw" not in line
    assert "checkpointing" not in line


def test_components_come_largest_first_and_empty_ones_not_at_all() -> None:
    names = [name for name, *_ in phrases.component_rows(make_result())]
    assert names == ["optimizer states", "weights", "gradients", "activations", "rounding"]


def test_shares_sum_to_the_whole() -> None:
    assert sum(share for *_, share in phrases.component_rows(make_result())) == pytest.approx(1)


def test_an_alternative_without_a_peak_gives_its_reason() -> None:
    told, untold = make_result().alternatives
    assert phrases.alternative_row(told) == ("pure bf16, 8-bit Adam, full checkpointing", "75.00 GiB", "fits")
    assert phrases.alternative_row(untold) == ("FSDP over 8", "", "not modelled yet")


def test_the_device_bytes_of_an_alternative_beat_its_allocated_ones() -> None:
    way = Alternative(
        name="a", change={}, allocated_bytes=GiB, device_bytes=2 * GiB, status="tight", reason="only just"
    )
    assert phrases.alternative_row(way) == ("a", "2.00 GiB", "tight: only just")

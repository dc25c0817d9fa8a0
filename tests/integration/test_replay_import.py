"""``memprof verify --import``: what a recorder or another memprof wrote, in the store.

``recorder_dry_run.jsonl`` is what ``record_runs.py --device cpu --tiny`` wrote; lines with a GPU's figures are made of
it, as the recorder writes them where a GPU is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memprof.__main__ import main
from memprof.model.evidence import Environment, Evidence, Measurement
from memprof.model.scenario import Scenario
from memprof.units import GiB
from memprof.verify import store
from memprof.verify.replay import replay

DRY_RUN = Path(__file__).parents[1] / "support" / "recorder_dry_run.jsonl"
LLAMA, BERT, MIXTRAL, VIT = (json.loads(line) for line in DRY_RUN.read_text().splitlines())
GPU = {"gpu": "NVIDIA H200", "capability": [9, 0], "cudnn": 91002}


def peaks(allocated: int, reserved: int) -> dict[str, int]:
    return {"allocated": allocated, "reserved": reserved, "live": allocated // 2, "requested": allocated - 512}


def on_gpu(line: dict[str, Any], num_parameters: int | None, **case: Any) -> dict[str, Any]:
    """The line as it would be on a GPU, with 1 GiB after loading and 3 GiB at most."""
    step = {"forward0": peaks(2 * GiB, 3 * GiB), "backward0": peaks(3 * GiB, 4 * GiB), "end": peaks(GiB, 4 * GiB)}
    return line | {
        "case": line["case"] | case,
        "env": line["env"] | GPU,
        "num_parameters": num_parameters,
        "after_load": peaks(GiB, GiB),
        "first_step": step,
        "steady_step": step,
        "device_total_bytes": 150 * 10**9,
        "mem_get_info_used_bytes": 5 * GiB,
        "run_reserved_bytes": 4 * GiB,
        "memory_stats": {"num_alloc_retries": 0},
    }


def write(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "runs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def imported(path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["verify", "--import", str(path), "--out", str(out), "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_each_line_of_a_dry_run_is_listed_as_one_without_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = imported(DRY_RUN, tmp_path / "store", capsys)
    assert answer["added"] == []
    assert [left["name"] for left in answer["left_out"]] == [line["id"] for line in (LLAMA, BERT, MIXTRAL, VIT)]
    assert all("no figures of a GPU" in left["reason"] for left in answer["left_out"])
    assert not (tmp_path / "store").exists()


def test_a_case_on_a_gpu_becomes_a_record_with_its_peaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = on_gpu(LLAMA, 1235814400, ckpt=True, clip=1.0, accumulate=4, attention="math")
    answer = imported(write(tmp_path, line), tmp_path / "store", capsys)
    assert len(answer["added"]) == 1
    record = store.read(Path(answer["added"][0]))
    assert record.environment.device == "h200-141gb"
    assert record.environment.versions["transformers"] == "5.23.0"
    scenario = record.scenario
    assert (scenario.model, scenario.precision, scenario.checkpointing) == ("llama-3.2-1b", "bf16", "full")
    assert (scenario.attention, scenario.loop.clip_grad_norm, scenario.optimizer.implementation) == (
        "sdpa-math", 1.0, "fused",
    )  # fmt: skip
    assert scenario.batch.gradient_accumulation_steps == 4
    measured = record.measured
    assert (measured.peak_allocated_bytes, measured.peak_reserved_bytes) == (3 * GiB, 4 * GiB)
    assert measured.phase_peak_bytes["backward"] == 3 * GiB - 512
    assert measured.phase_peak_bytes["load"] == GiB - 512
    assert measured.context_bytes == GiB
    assert replay([record], engines=["analytic"]).rows[0].num_runs == 1


def test_every_setting_of_the_recorder_has_its_place_in_a_scenario(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases: list[dict[str, Any]] = [
        {"model": "t5-base", "batch": 8, "seq": 512, "precision": "bf16-mixed"},
        {"model": "bert-base", "batch": 32, "seq": 128, "precision": "fp32", "impl": "foreach"},
        {"model": "resnet-50", "batch": 64, "seq": 224, "precision": "fp32"},
        {"model": "vit-base", "batch": 64, "seq": 197, "precision": "bf16-mixed"},
        {"model": "mixtral-small", "batch": 2, "seq": 1024},
        {"model": "llama-3.1-8b", "lora": 16, "quant": "nf4-double", "ckpt": True},
        {"model": "llama-13b", "optimizer": "paged-adamw-8bit", "impl": "bnb"},
        {"model": "llama-3.1-8b", "strategy": "fsdp", "world": 8, "precision": "bf16-mixed"},
        {"model": "llama-3.1-8b", "mode": "generate"},
        {"model": "llama-3.1-8b", "mode": "prefill"},
        {"model": "gpt2", "compile": "max-autotune"},
        {"model": "llama-3.2-1b", "expandable": True, "attention": "cudnn", "impl": "loop"},
    ]
    lines = [on_gpu(LLAMA, None, **case) | {"id": f"case-{index}"} for index, case in enumerate(cases)]
    answer = imported(write(tmp_path, *lines), tmp_path / "store", capsys)
    assert answer["left_out"] == []
    by_name = {record.name: record for record in store.read_all(tmp_path / "store")}
    scenarios = [by_name[f"case-{index}"].scenario for index in range(len(cases))]
    assert scenarios[0].batch.target_length == 512
    assert scenarios[1].task == "sequence-classification"
    assert (scenarios[2].task, scenarios[2].batch.image_size) == ("image-classification", 224)
    assert by_name["case-4"].model_config["num_local_experts"] == 8
    assert scenarios[5].adapter is not None
    assert scenarios[5].quantization == "nf4-double"
    assert scenarios[6].optimizer.name == "paged-adamw-8bit"
    assert (scenarios[7].parallelism.strategy, scenarios[7].parallelism.data) == ("fsdp", 8)
    assert scenarios[8].batch.new_tokens == 32
    assert (scenarios[9].mode, scenarios[9].batch.new_tokens) == ("inference", None)
    assert scenarios[10].compile is not None
    assert scenarios[11].allocator.expandable_segments
    assert scenarios[11].optimizer.implementation == "for-loop"


def test_a_smaller_model_under_a_known_name_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = imported(write(tmp_path, on_gpu(LLAMA, 106816)), tmp_path / "store", capsys)
    assert answer["added"] == []
    assert "record it again without --tiny" in answer["left_out"][0]["reason"]


def test_an_unknown_card_and_an_unknown_setting_are_left_out_with_their_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = on_gpu(LLAMA, None)
    stranger["env"] = stranger["env"] | {"gpu": "Voodoo 2"}
    odd = on_gpu(LLAMA, None, precision="fp4")
    answer = imported(write(tmp_path, stranger, odd), tmp_path / "store", capsys)
    assert "Voodoo 2" in answer["left_out"][0]["reason"]
    assert "precision" in answer["left_out"][1]["reason"]


def test_a_run_that_went_out_of_memory_is_a_record_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = {key: LLAMA[key] for key in ("id", "case")} | {
        "status": "oom", "error": "OutOfMemoryError: CUDA out of memory", "env": LLAMA["env"] | GPU,
    }  # fmt: skip
    answer = imported(write(tmp_path, line), tmp_path / "store", capsys)
    record = store.read(Path(answer["added"][0]))
    assert (record.status, record.message) == ("oom", "OutOfMemoryError: CUDA out of memory")
    scored = replay([record], engines=["analytic"])
    assert (scored.num_records, scored.num_unmeasured, scored.scores) == (1, 1, [])


def test_records_of_another_memprof_are_taken_over_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Evidence(
        name="theirs",
        environment=Environment(device="a100-80gb"),
        scenario=Scenario(model="gpt2"),
        status="ok",
        measured=Measurement(peak_reserved_bytes=GiB),
    )
    path = tmp_path / "theirs.jsonl"
    path.write_bytes(b"".join(store.encode(record).split(b"\n")) + b"\n")
    answer = imported(path, tmp_path / "store", capsys)
    assert store.read_all(tmp_path / "store") == [record]
    assert imported(path, tmp_path / "store", capsys) == answer


@pytest.mark.parametrize(
    "text", [b"", b"\n\n", b"{", b"[1]\n", b'{"hello": 1}\n', b"\xff\xfe\x00", b'{"case": 1, "status": "ok"}\n']
)
def test_a_file_of_something_else_is_one_line_and_nothing_is_written(
    tmp_path: Path, text: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    good = json.dumps(on_gpu(LLAMA, 1235814400)).encode() + b"\n" if text.strip() else b""
    path = tmp_path / "runs.jsonl"
    path.write_bytes(good + text)
    assert main(["verify", "--import", str(path), "--out", str(tmp_path / "store")]) == 2
    answer = capsys.readouterr()
    assert (answer.out, answer.err.count("\n")) == ("", 1)
    assert "runs.jsonl" in answer.err
    assert not (tmp_path / "store").exists()


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").write_text("a file")
    path = write(tmp_path, on_gpu(LLAMA, 1235814400))
    assert main(["verify", "--import", str(path), "--out", str(tmp_path / "store")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert (tmp_path / "store").read_text() == "a file"

"""`memprof verify` over real ranks: gloo processes that torchrun started, beside what both engines predict for one.

Measured: the worst rank's peak of DDP and FSDP over 2 and 4 ranks is the traced one to the byte. The analytic engine's
is 4 bytes under that, a scalar of the loss.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from memprof.__main__ import main
from memprof.model.evidence import Evidence

NEAR = 0.02
CONFIG = {
    "model_type": "llama", "vocab_size": 301, "hidden_size": 64, "intermediate_size": 136, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
    "tie_word_embeddings": False, "architectures": ["LlamaForCausalLM"],
}  # fmt: skip
UNEVEN = """
import os, torch
def model(sequence_length):
    if os.environ.get("RANK") == "1":
        raise ValueError("no such layer")
    return torch.nn.Linear(8, 8), torch.randn(2, 8), lambda out, _: out.sum()
"""


def written(folder: Path, name: str, **fields: Any) -> str:
    (folder / "tiny.json").write_text(json.dumps(CONFIG))
    scenario = {
        "model": "tiny.json",
        "precision": "fp32",
        "device": "cpu",
        "batch": {"micro_batch_size": 2, "sequence_length": 32},
        **fields,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(scenario))
    return f"{name}.yaml"


def verify(folder: Path, num_ranks: int, *names: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    return subprocess.run(
        [sys.executable, *launcher, "-m", "memprof", "verify", *names, "--out", "out"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def recorded(folder: Path) -> dict[str, Evidence]:
    records = [msgspec.json.decode(path.read_bytes(), type=Evidence) for path in folder.rglob("out/cpu/*.json")]
    return {record.name: record for record in records}


@pytest.mark.parametrize(
    ("num_ranks", "strategies"),
    [
        (2, ("ddp",)),
        (4, ("fsdp",)),
        pytest.param(2, ("fsdp", "ddp"), marks=pytest.mark.slow),
        pytest.param(4, ("ddp", "fsdp"), marks=pytest.mark.slow),
    ],
)
def test_every_ranks_peak_is_the_predicted_one(tmp_path: Path, num_ranks: int, strategies: tuple[str, ...]) -> None:
    files = [
        written(tmp_path, each, precision="bf16-mixed", parallelism={"strategy": each, "data": num_ranks})
        for each in strategies
    ]
    done = verify(tmp_path, num_ranks, *files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": all passed") == 1, "rank 0 alone prints"
    records = recorded(tmp_path)
    assert set(records) == set(strategies)
    for record in records.values():
        assert (record.environment.world_size, record.environment.process_group) == (num_ranks, "gloo")
        assert len(record.measured.ranks) == num_ranks
        assert max(record.measured.ranks) == record.measured.peak_requested_bytes
        assert set(record.measured.phase_peak_bytes) == {
            "load", "first_step", "step", "forward", "backward", "optimizer"
        }  # fmt: skip
        trace, analytic = record.predicted["trace"], record.predicted["analytic"]
        for told in (trace, analytic):
            assert told.refused is None
            for measured in record.measured.ranks:
                assert told.peak_requested_bytes == pytest.approx(measured, rel=NEAR)
        assert analytic.peak_requested_bytes == pytest.approx(trace.peak_requested_bytes, abs=4)


def test_a_rank_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "uneven.py").write_text(UNEVEN)
    parallelism = {"strategy": "ddp", "data": 2}
    name = written(tmp_path, "uneven", model="uneven:model", parallelism=parallelism, batch={})
    done = verify(tmp_path, 2, name)
    assert done.returncode == 1
    record = recorded(tmp_path)["uneven"]
    assert record.status == "error"
    assert record.message.startswith("rank 1: uneven:model failed with ValueError: no such layer")


def test_without_torchrun_rank_0_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [written(tmp_path, each, parallelism={"strategy": each, "data": 8}) for each in ("ddp", "fsdp")]
    assert main(["verify", *names, "--out", "out"]) == 0, capsys.readouterr()
    for record in recorded(tmp_path).values():
        assert (record.environment.world_size, record.environment.process_group) == (8, "fake")
        for told in record.predicted.values():
            assert told.peak_requested_bytes == pytest.approx(record.measured.peak_requested_bytes, rel=NEAR)


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("ddp", "bad has 2 ranks, but 3 were started; start 2, or change parallelism"),
        ("pipeline", "verify does not run parallelism.pipeline > 1; leave it at 1"),
    ],
)
def test_ranks_that_cannot_be_run_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], strategy: str, said: str
) -> None:
    for variable, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    degree = {"pipeline": 2} if strategy == "pipeline" else {"strategy": strategy, "data": 2}
    name = written(tmp_path, "bad", parallelism=degree)
    assert main(["verify", name, "--out", "out"]) == 2
    assert capsys.readouterr().err.strip() == f"memprof: error: {said}"
    assert not (tmp_path / "out").exists()

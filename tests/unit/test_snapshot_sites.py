"""What a stack tells, and what a block was for once its whole life is known."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from memprof.measure.recording import Site
from memprof.measure.sites import read_site
from memprof.measure.snapshot import analyse
from memprof.measure.snapshot_pickle import Frame

SITE_PACKAGES = "/usr/lib/python3/site-packages/"
TRAIN = ("/home/me/train.py", 40, "main")
CALL = (SITE_PACKAGES + "torch/nn/modules/module.py", 1789, "_call_impl")
LINEAR = (SITE_PACKAGES + "torch/nn/modules/linear.py", 134, "forward")
MLP = (SITE_PACKAGES + "transformers/models/llama/modeling_llama.py", 155, "forward")
STEP = (SITE_PACKAGES + "torch/optim/adamw.py", 200, "step")
BACKWARD = (SITE_PACKAGES + "torch/autograd/graph.py", 979, "_engine_run_backward")
TO = (SITE_PACKAGES + "torch/nn/modules/module.py", 1360, "convert")
ADDMM = ("??", 0, "at::_ops::addmm::call(at::Tensor const&, at::Tensor const&)")
ACCUMULATE = ("??", 0, "torch::autograd::AccumulateGrad::apply(std::vector<at::Tensor>&&)")
ENGINE = ("??", 0, "torch::autograd::Engine::thread_main(std::shared_ptr<torch::autograd::GraphTask> const&)")
WORKSPACE = ("??", 0, "at::cuda::(anonymous namespace)::getNewWorkspace()")
ALL_GATHER = (SITE_PACKAGES + "torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py", 80, "foreach_all_gather")
CACHE = (SITE_PACKAGES + "transformers/cache_utils.py", 120, "update")
WINDOWS = ("C:\\me\\net.py", 3, "Net.forward")
IN_MLP = "modeling_llama.py:155"
LOADER = (SITE_PACKAGES + "accelerate/data_loader.py", 560, "__iter__")


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([LINEAR, CALL, MLP, CALL, TRAIN], Site("forward", f"{IN_MLP} linear", f"{IN_MLP} forward", "forward")),
        ([ADDMM, LINEAR, CALL, MLP, TRAIN], Site("addmm", f"{IN_MLP} linear", f"{IN_MLP} forward", "forward")),
        ([ADDMM, ENGINE], Site("addmm", "", "", "backward")),
        ([BACKWARD, TRAIN], Site("_engine_run_backward", "", "train.py:40 main", "backward")),
        ([ACCUMULATE, ENGINE], Site("", "", "", "backward", "gradients")),
        ([STEP, TRAIN], Site("step", "", "train.py:40 main", "optimizer")),
        ([TO, TRAIN], Site("convert", "", "train.py:40 main", "load", "weights")),
        ([WORKSPACE, ADDMM, MLP], Site("addmm", IN_MLP, f"{IN_MLP} forward", "forward", "workspace")),
        ([ALL_GATHER, MLP], Site("foreach_all_gather", IN_MLP, f"{IN_MLP} forward", "forward", "communication")),
        ([CACHE, MLP], Site("update", IN_MLP, "cache_utils.py:120 update", "forward", "kv_cache")),
        ([LOADER, TRAIN], Site("__iter__", "", "data_loader.py:560 __iter__", "", "inputs")),
        ([TRAIN], Site("main", "", "train.py:40 main", "")),
        ([WINDOWS], Site("Net.forward", "net.py:3", "net.py:3 Net.forward", "forward")),
        ([], Site()),
    ],
)  # fmt: skip
def test_a_stack_is_read(frames: list[tuple[str, int, str]], expected: Site) -> None:
    assert read_site(tuple(Frame(*frame) for frame in frames)) == expected


Frames = Iterable[tuple[str, int, str]]
SEGMENT_BYTES = 200 << 20
MIB = 1 << 20


class Script:
    """A run written down as allocations and frees, one 200 MiB segment, as a snapshot."""

    def __init__(self) -> None:
        self.trace: list[dict[str, Any]] = [self.entry("segment_alloc", 0, SEGMENT_BYTES)]
        self.live: dict[int, tuple[int, list[Any]]] = {}
        self.top = 0

    def entry(
        self, action: str, address: int, size: int, frames: Iterable[tuple[str, int, str]] = ()
    ) -> dict[str, Any]:
        stack = [{"filename": file, "line": line, "name": name} for file, line, name in frames]
        return {"action": action, "addr": (1 << 40) + address, "size": size, "stream": 0, "frames": stack}

    def alloc(self, mib: int, *frames: tuple[str, int, str]) -> int:
        address, self.top = self.top, self.top + mib * MIB
        self.trace.append(self.entry("alloc", address, mib * MIB, frames))
        self.live[address] = mib * MIB, self.trace[-1]["frames"]
        return address

    def free(self, address: int) -> None:
        size, _ = self.live.pop(address)
        self.trace += [self.entry("free_requested", address, size), self.entry("free_completed", address, size)]

    def snapshot(self) -> dict[str, Any]:
        blocks, at = [], 0
        for address, (size, frames) in sorted(self.live.items()):
            if address > at:
                blocks.append({"size": address - at, "requested_size": 0, "state": "inactive", "frames": []})
            blocks.append({"size": size, "requested_size": size, "state": "active_allocated", "frames": frames})
            at = address + size
        blocks.append({"size": SEGMENT_BYTES - at, "requested_size": 0, "state": "inactive", "frames": []})
        segment = {
            "device": 0, "address": 1 << 40, "total_size": SEGMENT_BYTES, "stream": 0, "segment_type": "large",
            "segment_pool_id": (0, 0), "is_expandable": False, "blocks": blocks,
        }  # fmt: skip
        return {"segments": [segment], "device_traces": [self.trace], "allocator_settings": {}}

    def at_peak(self, path: Path) -> dict[str, int]:
        path.write_bytes(pickle.dumps(self.snapshot()))
        (device,) = analyse(path).devices
        return {name: size // MIB for name, size in device.at_peak_bytes.items() if size}


def test_a_training_step_is_told_apart_by_stacks_and_lives(tmp_path: Path) -> None:
    run = Script()
    run.alloc(1, TO, TRAIN)
    saved = run.alloc(2, LINEAR, MLP, TRAIN)
    passing = run.alloc(4, LINEAR, MLP, TRAIN)
    loss = run.alloc(8, TRAIN)  # computed outside any module
    run.free(passing)
    run.alloc(16, ADDMM, ENGINE)  # the gradient: it outlives backward
    flowing = run.alloc(32)  # no stack in a run that has stacks: backward's thread
    run.free(saved)
    run.free(flowing)
    run.free(loss)
    run.alloc(64, STEP, TRAIN)
    step = run.alloc(10, STEP, TRAIN)
    run.free(step)
    run.alloc(3, LINEAR, MLP, TRAIN)
    assert run.at_peak(tmp_path / "run") == {
        "weights": 1, "gradients": 16, "optimizer_states": 64, "temporaries": 10,
    }  # fmt: skip
    run.trace = run.trace[: run.trace.index(next(e for e in run.trace if e["size"] == 64 * MIB))]
    run.live = {at: block for at, block in run.live.items() if block[0] in (1 * MIB, 16 * MIB)}
    assert run.at_peak(tmp_path / "until backward") == {
        "temporaries": 32, "gradients": 16, "activations": 10, "weights": 1,
    }  # fmt: skip


def test_what_is_recomputed_in_backward_is_an_activation(tmp_path: Path) -> None:
    run = Script()
    run.alloc(1, LINEAR, MLP, TRAIN)
    again = run.alloc(2, LINEAR, MLP, ENGINE)
    run.free(again)
    assert run.at_peak(tmp_path / "run") == {"activations": 3}


def test_without_any_stack_nothing_is_claimed(tmp_path: Path) -> None:
    snapshot = Script().snapshot()
    snapshot["segments"][0]["blocks"] = [
        {"size": SEGMENT_BYTES, "requested_size": SEGMENT_BYTES, "state": "active_allocated", "frames": []}
    ]
    (tmp_path / "state").write_bytes(pickle.dumps({**snapshot, "device_traces": []}))
    (device,) = analyse(tmp_path / "state").devices
    assert device.at_peak_bytes == {"unknown": SEGMENT_BYTES, "rounding": 0}


def test_holders_name_op_module_and_source(tmp_path: Path) -> None:
    run = Script()
    run.alloc(2, ADDMM, LINEAR, CALL, MLP, TRAIN)
    run.alloc(3, ADDMM, LINEAR, CALL, MLP, TRAIN)
    (tmp_path / "run").write_bytes(pickle.dumps(run.snapshot()))
    (holder,) = analyse(tmp_path / "run").devices[0].holders
    assert (holder.op, holder.module, holder.num_blocks) == ("addmm", "modeling_llama.py:155 linear", 2)
    assert (holder.peak_bytes, holder.end_bytes) == (5 * MIB, 5 * MIB)


def test_growth_is_by_site_and_the_largest_comes_first(tmp_path: Path) -> None:
    for name, large in (("a", 2), ("b", 9)):
        run = Script()
        run.alloc(large, ADDMM, MLP, TRAIN)
        run.alloc(4 if name == "a" else 1, STEP, TRAIN)
        run.alloc(5, TO, TRAIN)
        (tmp_path / name).write_bytes(pickle.dumps(run.snapshot()))
    report = analyse(tmp_path / "a", compare_with=tmp_path / "b")
    changes = [(row.op, (row.peak_after_bytes - row.peak_before_bytes) // MIB) for row in report.growth]
    assert changes == [("addmm", 7), ("step", -3)]
    assert report.compared_with == str(tmp_path / "b")

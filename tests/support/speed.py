"""What an answer costs, in units that hold on a slow or a busy machine: other work measured in the same run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import process_time

from memprof.model.decode import decode
from memprof.model.scenario import Scenario

BARE = ("-c", "pass")
ESTIMATE = ("-m", "memprof", "estimate", "llama-13b", "--json")


def cpu_s(arguments: tuple[str, ...]) -> float:
    """CPU seconds, user and system, of one fresh interpreter; isolated, so that it does not read PYTHON* settings."""
    with subprocess.Popen([sys.executable, "-I", *arguments], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def bare_interpreters(arguments: tuple[str, ...]) -> Iterator[float]:
    """What a command costs in interpreters that start and do nothing: the least of each so far, run in turn."""
    cpu_s(arguments)  # compiles what is new
    command = bare = float("inf")
    while True:
        bare = min(bare, *(cpu_s(BARE) for _ in range(3)))
        command = min(command, cpu_s(arguments))
        yield command / bare


def peak_rss_bytes(code: str) -> int:
    """The most memory that a fresh interpreter held while it ran ``code``.

    Asked of the process itself: what ``wait4`` reports includes the parent it was forked from. Linux only.
    """
    code += "; print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)"
    command = [sys.executable, "-I", "-c", f"import sys; {code}"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(run.stderr) << 10


def calibration() -> None:
    """A fixed piece of work that, as the engine does, makes small objects, appends numbers and asks dictionaries."""
    seen: dict[int, list[int]] = {}
    for number in range(10_000):
        seen.setdefault(number & 255, []).append(number)


def least_s(work: Callable[[], object], rounds: int) -> float:
    """CPU seconds of the quickest of some runs in this process."""
    times = []
    for _ in range(rounds):
        start = process_time()
        work()
        times.append(process_time() - start)
    return min(times)


def scenarios(num: int) -> list[Scenario]:
    """Scenarios that all differ, over families, sizes, precisions, optimizers, adapters, sharding and inference."""
    models = ("llama-3.1-8b", "llama-13b", "gpt2-xl", "mistral-7b", "qwen3-8b", "llama-3.1-70b", "gpt2")
    ways: tuple[dict[str, object], ...] = (
        {"precision": "bf16-mixed"},
        {"precision": "bf16", "optimizer": {"name": "adamw-8bit"}},
        {"precision": "fp32", "optimizer": {"name": "sgd"}},
        {"precision": "bf16-mixed", "checkpointing": "full"},
        {"precision": "bf16", "adapter": {"rank": 16}},
        {"precision": "bf16-mixed", "parallelism": {"strategy": "fsdp", "data": 8}},
        {"precision": "bf16", "mode": "inference"},
    )
    plain = (
        {"model": models[i % 7], "batch": {"micro_batch_size": 1 + i // 49, "sequence_length": 512}, **ways[i // 7 % 7]}
        for i in range(num)
    )
    return [decode(fields) for fields in plain]

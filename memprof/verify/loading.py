"""How much host memory loading a checkpoint takes: ``python -m memprof.verify.loading REQUEST ANSWER``.

A model is made and saved; another process, which has seen none of it, loads it and watches its anonymous memory. Pages
of a mapped file are not counted: the system may take them back at any time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from memprof.errors import MeasurementError
from memprof.measure import lifeline
from memprof.verify.process import answered

Format = Literal["safetensors", "pickle"]

_LOAD = "--load"
_EVERY_S = 0.002
_KIB = 1024


class Question(msgspec.Struct, frozen=True):
    """The model's ``config.json``, and what its checkpoint is saved as."""

    config: dict[str, Any]
    format: Format


class Loaded(msgspec.Struct, frozen=True):
    """Bytes: of the weights, and by how much anonymous memory grew at most while they were loaded."""

    weight_bytes: int
    peak_bytes: int


def main() -> None:
    """Saves and has loaded; or, as the other process, loads."""
    if sys.argv[1] == _LOAD:
        sys.stdout.write(msgspec.json.encode(_load(Path(sys.argv[2]), sys.argv[3])).decode())
        return
    lifeline.hold()
    question = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Question)
    with tempfile.TemporaryDirectory(prefix="memprof-") as folder:
        _save(question, Path(folder))
        command = [sys.executable, "-m", "memprof.verify.loading", _LOAD, folder, question.format]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    answered(Path(sys.argv[2]), done.stdout)


def _save(question: Question, folder: Path) -> None:
    import torch
    import transformers

    from memprof.workload.huggingface import config_of

    model = transformers.AutoModelForCausalLM.from_config(config_of(question.config))
    if question.format == "safetensors":
        model.save_pretrained(folder)
    else:
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")


def _load(folder: Path, file_format: str) -> Loaded:
    import transformers

    with _watched() as highest:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype="float32", use_safetensors=file_format == "safetensors"
        )
    return Loaded(sum(weight.nbytes for weight in model.parameters()), highest[0])


@contextmanager
def _watched() -> Iterator[list[int]]:
    """The highest growth of anonymous memory while open, once it is closed."""
    over, before, highest = threading.Event(), _anonymous_bytes(), [0]

    def watch() -> None:
        while not over.wait(_EVERY_S):
            highest[0] = max(highest[0], _anonymous_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield highest
    finally:
        over.set()
        watcher.join()
    highest[0] = max(highest[0], _anonymous_bytes() - before)


def _anonymous_bytes() -> int:
    """Source: https://docs.kernel.org/filesystems/proc.html (RssAnon)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        raise MeasurementError("this system does not tell anonymous memory apart", "use Linux") from None
    return next(int(line.split()[1]) * _KIB for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Which CUDA versions a torch release is built for, checked before an hour goes into an image that cannot work.

    versions.py check --torch 2.13.0 --cuda 13.0.2 [--architecture sm_90] [--index-root URL]
    versions.py matrix [--index-root URL]    what a workflow builds, as JSON
    versions.py pins --torch 2.13.0 --cuda 13.0.2 < constraints.txt    the pins that hold for it
    versions.py installed --cuda 13.0.2      whether the torch of this Python is built for it

The table below is PyTorch's own. A release of torch takes its row here before an image can be built with it.
Exit codes: 0 they go together, 2 they do not: one line says why.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple, NoReturn


class Release(NamedTuple):
    """``newest`` patch release; the CUDA version of the ``default`` package index; and of PyTorch's own indexes."""

    newest: str
    default: str
    others: tuple[str, ...]


class Toolkit(NamedTuple):
    """The toolkit that PyTorch builds with, also the tag of the base image, and its kernels from Hopper on."""

    version: str
    architectures: tuple[str, ...]


RELEASES = {
    "2.11": Release("2.11.0", "13.0", ("12.6", "12.8")),
    "2.12": Release("2.12.1", "13.0", ("12.6", "13.2")),
    "2.13": Release("2.13.0", "13.0", ("12.6", "13.2")),
}
"""Source: https://github.com/pytorch/pytorch/blob/main/RELEASE.md, release compatibility matrix; for 2.13
https://github.com/pytorch/pytorch/pull/187075, for 2.12 https://github.com/pytorch/pytorch/issues/178665, for 2.11
https://github.com/pytorch/pytorch/issues/172663. The default is what each wheel's metadata requires."""

TOOLKITS = {
    "12.6": Toolkit("12.6.3", ("sm_90",)),
    "12.8": Toolkit("12.8.1", ("sm_90", "sm_100", "sm_120")),
    "13.0": Toolkit("13.0.2", ("sm_90", "sm_100", "sm_120")),
    "13.2": Toolkit("13.2.1", ("sm_90", "sm_100", "sm_120")),
}
"""Source: the CUDA support matrix of the same file, as https://github.com/pytorch/pytorch/pull/182849 changed it."""

# What torch brings along and pins or bounds itself, from release to release in another way.
_OF_TORCH = re.compile(r"(torch|triton|setuptools|cuda-[a-z]+|nvidia-(cu|nc|nv)[a-z0-9-]*)==")


def check(torch: str, cuda: str, architecture: str | None = None, index_root: str = "") -> str:
    """One line that says what goes together; leaves with 2 where it does not."""
    release, version = _minor(torch), _minor(cuda)
    if release not in RELEASES:
        refuse(f"torch {torch} has no row in docker/versions.py; it knows {', '.join(RELEASES)}")
    _, default, others = RELEASES[release]
    if version not in (default, *others):
        refuse(f"torch {torch} is not built for CUDA {cuda}; it is for {', '.join(sorted((default, *others)))}")
    if version != default and not index_root:
        refuse(
            f"the default package index holds torch {torch} for CUDA {default} only; for {cuda} name the root of"
            " PyTorch's indexes in TORCH_INDEX_ROOT"
        )
    architectures = TOOLKITS[version].architectures
    if architecture is not None and not has_kernels(architecture, architectures):
        refuse(f"torch {torch} for CUDA {cuda} has no kernels for {architecture}; it has {', '.join(architectures)}")
    return f"torch {torch} is built for CUDA {cuda}: {', '.join(architectures)}"


def matrix(index_root: str) -> list[dict[str, str]]:
    """A row for each image: of the default index alone, or of all of them where their root is named."""
    return [
        {"torch": newest, "cuda": TOOLKITS[cuda].version}
        for newest, default, others in RELEASES.values()
        for cuda in (default, *(others if index_root else ()))
    ]


def pins(lines: Sequence[str], torch: str, cuda: str) -> str:
    """All of them for the torch that they pin, from the default index; else those of nothing that torch brings."""
    is_pinned = f"torch=={torch}\n" in lines and _minor(cuda) == RELEASES[_minor(torch)].default
    return "".join(line for line in lines if is_pinned or not _OF_TORCH.match(line))


def has_kernels(card: str, built_for: Iterable[str]) -> bool:
    """Whether one of the architectures that were built for is of the card's own generation, and no later than it.

    Source: https://docs.nvidia.com/cuda/cuda-c-programming-guide/, binary compatibility.
    """
    generation, revision = _capability(card)
    built = [_capability(name) for name in built_for if re.fullmatch(r"sm_\d+", name)]
    return any(major == generation and minor <= revision for major, minor in built)


def refuse(why: str) -> NoReturn:
    """Says why and leaves."""
    print(f"error: {why}", file=sys.stderr)
    raise SystemExit(2)


def _capability(name: str) -> tuple[int, int]:
    digits = name.removeprefix("sm_")
    return int(digits[:-1]), int(digits[-1])


def _minor(version: str) -> str:
    match = re.fullmatch(r"(\d+\.\d+)(\.\d+)?", version)
    if match is None:
        refuse(f"{version!r} is not a version; write it as 13.0.2")
    return match[1]


def _installed(cuda: str) -> str:
    import torch

    if torch.version.cuda != _minor(cuda):
        refuse(f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, not for {cuda}")
    return f"torch {torch.__version__} for CUDA {torch.version.cuda} is installed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    checked, listed = commands.add_parser("check"), commands.add_parser("matrix")
    pinned, installed = commands.add_parser("pins"), commands.add_parser("installed")
    checked.add_argument("--architecture")
    for command in (checked, pinned):
        command.add_argument("--torch", required=True)
    for command in (checked, pinned, installed):
        command.add_argument("--cuda", required=True)
    for command in (checked, listed):
        command.add_argument("--index-root", default="")
    asked = parser.parse_args()
    if asked.command == "check":
        print(check(asked.torch, asked.cuda, asked.architecture, asked.index_root))
    elif asked.command == "matrix":
        print(json.dumps({"include": matrix(asked.index_root)}))
    elif asked.command == "pins":
        print(pins(list(sys.stdin), asked.torch, asked.cuda), end="")
    else:
        print(_installed(asked.cuda))


if __name__ == "__main__":
    main()

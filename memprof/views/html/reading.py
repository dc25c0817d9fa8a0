"""*How to read this*: the words of a report, each with its meaning."""

from __future__ import annotations

NUMBERS: list[tuple[str, str]] = [
    ("requested", "what the program's tensors ask for, byte by byte"),
    ("allocated", "the same in blocks as large as the allocator hands out; torch.cuda.max_memory_allocated()"),
    ("reserved", "what PyTorch has taken from the device: allocated, plus what it caches and cannot hand out whole; "
                 "torch.cuda.max_memory_reserved()"),
    ("device", "what nvidia-smi shows for the process: reserved, plus the CUDA context and communicators"),
    ("GiB", "2^30 bytes, as PyTorch and nvidia-smi count; a card of 80 GB has less than 80 GiB"),
]  # fmt: skip
COMPONENTS: list[tuple[str, str]] = [
    ("activations", "kept by forward for backward, and autocast's copies of weights"),
    ("optimizer states", "moments, and 32-bit master weights where the optimizer keeps them"),
    ("temporaries", "alive only inside one operation, a loss or an optimizer step"),
    ("workspace", "scratch memory of cuBLAS and its like, kept for life"),
    ("rounding", "block sizes minus requested bytes"),
    ("fragmentation", "reserved minus allocated"),
]
FIGURES: list[tuple[str, str]] = [
    ("timeline", "from left to right in the order of events, not to scale in time; each point is the highest of its "
                 "stretch, so that no peak is lost"),
    ("layers.*", "identical layers, folded into one box; its bytes are those of all of them"),
    ("own, total", "what a module holds itself, and with everything below it"),
]  # fmt: skip
EVERYTHING = [*NUMBERS, *COMPONENTS, *FIGURES]

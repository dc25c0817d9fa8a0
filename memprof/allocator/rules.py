"""The caching allocator's constants, and how a request becomes a block size and a segment size.

The constants are those of torch 2.13's ``c10/core/AllocatorConfig.h``; before 2.13 they stood, with the same values, in
``c10/cuda/CUDACachingAllocator.cpp``. Functions name the upstream function that they follow.
"""

from __future__ import annotations

import msgspec

from memprof.units import GiB, MiB

CONSTANTS_URL = "https://github.com/pytorch/pytorch/blob/v2.13.0/c10/core/AllocatorConfig.h#L16-L25"
ALLOCATOR_URL = (
    "https://github.com/pytorch/pytorch/blob/001074d25084fdb87a799823e395a50f5ec044d3/c10/cuda/CUDACachingAllocator.cpp"
)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What no setting changes; bytes. Tests replace one at a time to show that each is held by a trace.

    Attributes:
        min_block: every block is a multiple of it (``kMinBlockSize``).
        small_request: the largest request that the small pool serves (``kSmallSize``).
        small_segment: size of a small pool's segment, and its page when expandable (``kSmallBuffer``).
        large_request: from here on a request gets a segment of its own (``kMinLargeAlloc``).
        segment_round: segments of their own are multiples of it (``kRoundLarge``).
        small_remainder: least rest for which a block of the small pool, or any block under expandable segments, is
            split (``should_split``).
        large_remainder: least rest for which a block of the large pool is split: more than 1 MiB, so one more unit.
        address_space: an expandable segment reserves this much of the device's memory in addresses
            (``find_expandable_block``: 1 1/8).
    """

    min_block: int = 512
    small_request: int = 1 * MiB
    small_segment: int = 2 * MiB
    large_request: int = 10 * MiB
    segment_round: int = 2 * MiB
    small_remainder: int = 512
    large_remainder: int = 1 * MiB + 512
    address_space: tuple[int, int] = (9, 8)


RULES = Rules()

# roundup_power2_divisions has one entry for each power of two from 1 MiB up to 64 GiB
# (kRoundUpPowerOfTwoStart, kRoundUpPowerOfTwoEnd, kRoundUpPowerOfTwoIntervals in c10/core/AllocatorConfig.cpp).
ROUNDUP_START = 1 * MiB
ROUNDUP_END = 64 * GiB
NUM_ROUNDUP_INTERVALS = 16


def round_up(num_bytes: int, unit: int) -> int:
    """The next multiple of ``unit``."""
    return -(-num_bytes // unit) * unit


def round_size(num_bytes: int, divisions: tuple[int, ...], rules: Rules = RULES) -> int:
    """Bytes of the block that serves a request (upstream ``round_size``).

    Args:
        num_bytes: what was asked for, more than 0.
        divisions: ``roundup_power2_divisions`` by interval, or empty where it is not set.
    """
    if num_bytes < rules.min_block:
        return rules.min_block
    if divisions:
        per_octave = divisions[_interval(num_bytes)]
        if per_octave > 1 and num_bytes > rules.min_block * per_octave:
            return _next_division(num_bytes, per_octave)
    return round_up(num_bytes, rules.min_block)


def segment_size(block_bytes: int, large_segment_bytes: int, rules: Rules = RULES) -> int:
    """Bytes asked of the device when no free block serves (upstream ``get_allocation_size``)."""
    if block_bytes <= rules.small_request:
        return rules.small_segment
    if block_bytes < rules.large_request:
        return large_segment_bytes
    return round_up(block_bytes, rules.segment_round)


def _interval(num_bytes: int) -> int:
    """Upstream ``roundup_power2_divisions(size)``: below 1 MiB the first entry holds, above 32 GiB the last."""
    index = num_bytes.bit_length() - ROUNDUP_START.bit_length()
    return min(max(index, 0), NUM_ROUNDUP_INTERVALS - 1)


def _next_division(num_bytes: int, divisions: int) -> int:
    """Upstream ``roundup_power2_next_division``: each octave is cut into ``divisions`` equal parts."""
    floor = 1 << (num_bytes.bit_length() - 1)
    if num_bytes == floor:
        return num_bytes
    return round_up(num_bytes, floor // divisions)

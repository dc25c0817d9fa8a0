"""Giving cached memory back: when the program asks, when the device is full, and by age."""

from __future__ import annotations

from bisect import bisect_left

from memprof.allocator.blocks import ADDRESS_BITS, Block, FreeList, Pool
from memprof.allocator.device import Device
from memprof.allocator.expandable import ExpandableSegments, whole_pages
from memprof.allocator.settings import Settings


def release_pool(pool: Pool, device: Device, expandable: ExpandableSegments) -> None:
    """Give back each segment that is one free block, and each free page. Source: ``release_blocks``."""
    blocks = pool.free_blocks()
    for block in blocks:
        if _is_whole_segment(block):
            device.give_back(block)
    for block in blocks:
        if block.segment is not None:
            expandable.unmap(block)


def releasable(pools: list[Pool]) -> list[int]:
    """Sizes of what ``release_pool`` would give back, smallest first."""
    sizes = []
    for pool in pools:
        for block in pool.free_blocks():
            if block.segment is not None:
                first, last = whole_pages(block, block.segment)
                sizes.append(max(last - first, 0))
            elif _is_whole_segment(block):
                sizes.append(block.size)
    return sorted(size for size in sizes if size)


def release_oversize(free_list: FreeList, size: int, settings: Settings, device: Device) -> bool:
    """Give back just enough blocks that are too large to be split, for a request of ``size``.

    Such a block is part of a split segment only where that is older than the setting; then it cannot go.

    Returns:
        Whether as much was given back as the request needs.

    Source: ``release_available_cached_blocks``.
    """
    if settings.max_split_bytes is None:
        return False
    wanted = max(size, settings.max_split_bytes)
    blocks = [free_list.blocks[key] for key in free_list.keys]
    index = bisect_left(free_list.keys, wanted << ADDRESS_BITS)
    if index < len(blocks) and _is_whole_segment(blocks[index]):
        device.give_back(blocks[index])
        return True
    released = 0
    for block in reversed(blocks[:index]):
        if released >= wanted or block.size < settings.max_split_bytes:
            break
        if _is_whole_segment(block):
            released += block.size
            device.give_back(block)
    return released >= wanted


def collect_garbage(pool: Pool, threshold: float, device: Device) -> None:
    """Give back the free segments of a pool that were idle for longest, if the process uses more than its threshold.

    Each round takes those that are at least as old as the average; the rounds go on until enough is free.

    Source: ``garbage_collect_cached_blocks``.
    """
    assert device.allowed_bytes is not None
    excess = device.stats.reserved_bytes[0].current - int(threshold * device.allowed_bytes)
    idle = [block for block in pool.free_blocks() if _is_whole_segment(block)]
    while idle and excess > 0:
        average = sum(_age(block, pool) for block in idle) / len(idle)
        old = [block for block in idle if _age(block, pool) >= average]
        idle = [block for block in idle if _age(block, pool) < average]
        excess -= sum(block.size for block in old)
        for block in old:
            device.give_back(block)


def _is_whole_segment(block: Block) -> bool:
    return block.segment is None and not block.is_split


def _age(block: Block, pool: Pool) -> int:
    return pool.num_searches - block.age_base

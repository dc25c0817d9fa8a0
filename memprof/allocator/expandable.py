"""Expandable segments: one range of addresses for each stream and pool, into which pages of memory are mapped.

A segment's addresses are tiled by free, allocated, pending and unmapped blocks. Unmapped ones are whole pages: 2 MiB in
the small pool, a large segment's size in the large one.

Source: Note [Expandable Segments] and the functions named below, see ``memprof.allocator.rules.ALLOCATOR_URL``.
"""

from __future__ import annotations

from memprof.allocator.blocks import FREE, UNMAPPED, Block, ExpandableSegment, FreeList
from memprof.allocator.device import Device
from memprof.allocator.rules import round_up
from memprof.units import TiB

# Stands for the device's size where it never runs out.
_UNLIMITED = 16 * TiB


class ExpandableSegments:
    """The part of the allocator that maps and unmaps pages."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def prefer(self, free_list: FreeList, index: int) -> int:
        """Among the free blocks from ``index`` on, the first whose room to grow is not beaten by the next one's.

        A block that borders unmapped addresses counts as large as it could become, so that the end of the segment is
        used last. Source: ``get_free_block``.
        """
        keys, blocks = free_list.keys, free_list.blocks
        block = blocks[keys[index]]
        while index + 1 < len(keys):
            after = block.next
            if after is None or after.state != UNMAPPED:
                break  # it has no room to grow, and what follows is no smaller
            following = blocks[keys[index + 1]]
            if _room(following) >= block.size + after.size:
                break
            block, index = following, index + 1
        return index

    def allocate(self, free_list: FreeList, size: int) -> Block | None:
        """Map pages until a block of ``size`` exists; None where the device runs out, keeping what was mapped.

        Source: ``try_allocate_expandable_block``.
        """
        block = self._lowest_room(free_list, size)
        if block.state == UNMAPPED:
            mapped = self._map(block, min(block.size, size))
            if mapped is None:
                return None
            block = mapped
        while block.size < size:
            unmapped = block.next
            assert unmapped is not None
            mapped = self._map(unmapped, min(size - block.size, unmapped.size))
            if mapped is None:
                return None
            block = mapped
        free_list.remove(block)
        return block

    def unmap(self, block: Block) -> None:
        """Give back the whole pages inside a free block, and the segment once it has no page left.

        Source: ``unmap_block`` and ``release_expandable_segment``.
        """
        segment, home = block.segment, block.home
        assert segment is not None
        start, end = whole_pages(block, segment)
        if start >= end:
            return
        home.remove(block)
        if end < block.address + block.size:
            home.insert(block.cut(end - block.address, FREE))
        if start > block.address:
            pages = block.cut(start - block.address, UNMAPPED)
            home.insert(block)
            block = pages
        block.state = UNMAPPED
        self._device.note(home, "segment_unmap", start, start - end)
        if home.pool.owner is not None:
            home.pool.owner.num_segments -= 1
        after, before = block.next, block.previous
        if after is not None and after.state == UNMAPPED:
            home.remove_unmapped(after)
            block.absorb_next()
        if before is not None and before.state == UNMAPPED:
            home.remove_unmapped(before)
            before.absorb_next()
            block = before
        if block.is_split:
            home.insert_unmapped(block)
        else:
            del self._device.heads[block.address]

    def adopt(self, free_list: FreeList, blocks: list[Block]) -> None:
        """Make a segment of blocks that are mapped already, side by side from its first address on."""
        segment = self._new_segment(free_list)
        address = segment.address
        for block in blocks:
            block.address, block.segment = address, segment
            address += block.size
        self._device.heads[segment.address] = blocks[0]
        rest = Block(address, segment.address + segment.size - address, UNMAPPED, free_list)
        rest.segment = segment
        rest.insert_after(blocks[-1])
        free_list.insert_unmapped(rest)

    def _lowest_room(self, free_list: FreeList, size: int) -> Block:
        """The block at the lowest address from which free and unmapped blocks reach ``size``.

        Source: ``find_expandable_block``.
        """
        for address in free_list.unmapped_addresses:
            block = free_list.unmapped[address]
            before = block.previous
            if before is not None and before.state == FREE:
                block = before
            if _reaches(block, size):
                return block
        segment = self._new_segment(free_list)
        block = Block(segment.address, segment.size, UNMAPPED, free_list)
        block.segment = segment
        self._device.heads[block.address] = block
        free_list.insert_unmapped(block)
        return block

    def _new_segment(self, free_list: FreeList) -> ExpandableSegment:
        device = self._device
        page = device.rules.small_segment if free_list.pool.is_small else device.settings.large_segment_bytes
        times, over = device.rules.address_space
        total_bytes = device.total_bytes if device.total_bytes is not None else _UNLIMITED
        size = round_up(total_bytes * times // over, page)
        return ExpandableSegment(device.addresses.take(size), size, page)

    def _map(self, block: Block, size: int) -> Block | None:
        """Map the first pages of an unmapped block, at least ``size`` bytes; the free block that they are in then.

        Source: ``map_block``.
        """
        segment, home = block.segment, block.home
        assert segment is not None
        size = round_up(size, segment.page)
        if not self._device.fits(size):
            return None
        home.remove_unmapped(block)
        if size < block.size:
            home.insert_unmapped(block.cut(size, UNMAPPED))
        self._device.note(home, "segment_map", block.address, size)
        block.state = FREE
        after, before = block.next, block.previous
        if after is not None and after.state == FREE:
            home.remove(after)
            block.absorb_next()
        if before is not None and before.state == FREE:
            home.remove(before)
            before.absorb_next()
            block = before
        home.insert(block)
        return block


def whole_pages(block: Block, segment: ExpandableSegment) -> tuple[int, int]:
    """First and last address of the pages that lie wholly inside a block; the first is not below the last if none."""
    offset = block.address - segment.address
    start = round_up(offset, segment.page)
    end = (offset + block.size) // segment.page * segment.page
    return segment.address + start, segment.address + end


def _room(block: Block) -> int:
    after = block.next
    return block.size + (after.size if after is not None and after.state == UNMAPPED else 0)


def _reaches(block: Block, size: int) -> bool:
    piece: Block | None = block
    while size > 0 and piece is not None and piece.state in (FREE, UNMAPPED):
        size -= piece.size
        piece = piece.next
    return size <= 0

"""Random traffic: what must hold after every step, whatever the settings."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memprof.allocator.blocks import ADDRESS_BITS, ALLOCATED, FREE, PENDING, UNMAPPED, Block
from memprof.allocator.native import CachingAllocator
from memprof.allocator.oom import OutOfMemoryError
from memprof.allocator.settings import parse_conf
from memprof.units import MiB

CONFS = (
    "",
    "expandable_segments:True",
    "max_split_size_mb:24",
    "roundup_power2_divisions:4",
    "large_segment_size_mb:12",
    "garbage_collection_threshold:0.5,per_process_memory_fraction:0.9",
    "expandable_segments:True,max_split_size_mb:24",
)
SIZES = st.one_of(st.integers(1, 4096), st.integers(1, 3 * MiB), st.integers(1, 64).map(lambda size: size * MiB))


def _blocks(allocator: CachingAllocator) -> list[list[Block]]:
    """Every block of every segment, unmapped ones too."""
    found = []
    for head in allocator.device.heads.values():
        blocks, block = [], head
        while block is not None:
            blocks.append(block)
            block = block.next
        found.append(blocks)
    return found


class Traffic(RuleBasedStateMachine):
    """Drives one allocator; ``log`` is played again at the end."""

    @initialize(conf=st.sampled_from(CONFS), device_mib=st.sampled_from([None, 100, 256]))
    def start(self, conf: str, device_mib: int | None) -> None:
        self.arguments = (parse_conf(conf), None if device_mib is None else device_mib * MiB)
        self.allocator = CachingAllocator(self.arguments[0], device_bytes=self.arguments[1])
        self.live: list[Block] = []
        self.pending: list[Block] = []
        self.log: list[tuple[str, int, int]] = []
        self.placed: list[int | None] = []
        self.captured = 0

    @rule(num_bytes=SIZES, stream=st.integers(0, 2))
    def malloc(self, num_bytes: int, stream: int) -> None:
        self.log.append(("malloc", num_bytes, stream))
        try:
            block = self.allocator.malloc(num_bytes, stream)
        except OutOfMemoryError:
            self.placed.append(None)
            return
        assert block.size >= num_bytes
        assert block.requested == num_bytes
        self.placed.append(block.address)
        self.live.append(block)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.live) - 1))
        self.log.append(("free", index, 0))
        self.allocator.free(self.live.pop(index))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def request_free(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.live) - 1))
        self.log.append(("request_free", index, 0))
        block = self.live.pop(index)
        self.allocator.request_free(block)
        self.pending.append(block)

    @precondition(lambda self: self.pending)
    @rule()
    def complete_free(self) -> None:
        self.log.append(("complete_free", 0, 0))
        self.allocator.complete_free(self.pending.pop(0))

    @rule()
    def empty_cache(self) -> None:
        self.log.append(("empty_cache", 0, 0))
        self.allocator.empty_cache()
        if not self.captured:
            assert self.allocator.releasable() == []

    @precondition(lambda self: not self.captured)
    @rule()
    def begin_capture(self) -> None:
        self.log.append(("begin_capture", 0, 0))
        self.allocator.begin_capture("graph", streams=[1])
        self.captured = 1

    @precondition(lambda self: self.captured)
    @rule()
    def end_capture(self) -> None:
        self.log.append(("end_capture", 0, 0))
        self.allocator.end_capture("graph")
        self.allocator.release_pool("graph")
        self.captured = 0

    @invariant()
    def blocks_tile_their_segments(self) -> None:
        ends: list[tuple[int, int]] = []
        for blocks in _blocks(self.allocator):
            assert blocks[0].previous is None
            for left, right in pairwise(blocks):
                assert left.address + left.size == right.address
                assert right.previous is left
            ends.append((blocks[0].address, blocks[-1].address + blocks[-1].size))
        for (_, end), (start, _) in pairwise(sorted(ends)):
            assert end <= start

    @invariant()
    def merging_is_complete(self) -> None:
        for blocks in _blocks(self.allocator):
            for left, right in pairwise(blocks):
                assert left.state != right.state or left.state in (ALLOCATED, PENDING)

    @invariant()
    def the_lists_hold_what_is_free(self) -> None:
        blocks = [block for segment in _blocks(self.allocator) for block in segment]
        for block in blocks:
            if block.state == FREE:
                assert block.home.blocks[block.size << ADDRESS_BITS | block.address] is block
            elif block.state == UNMAPPED:
                assert block.home.unmapped[block.address] is block
        lists = {block.home for block in blocks}
        assert sum(len(free.keys) for free in lists) == sum(block.state == FREE for block in blocks)
        assert all(sorted(free.blocks) == free.keys for free in lists)

    @invariant()
    def levels_are_sums(self) -> None:
        blocks = [block for segment in _blocks(self.allocator) for block in segment]
        stats = self.allocator.memory_stats()

        def held(*states: int) -> int:
            return sum(block.size for block in blocks if block.state in states)

        assert stats["allocated_bytes.all.current"] == held(ALLOCATED) == self.allocator.allocated_bytes
        assert stats["active_bytes.all.current"] == held(ALLOCATED, PENDING) == self.allocator.active_bytes
        assert stats["reserved_bytes.all.current"] == held(ALLOCATED, PENDING, FREE)
        assert stats["requested_bytes.all.current"] == sum(
            block.requested for block in blocks if block.state in (ALLOCATED, PENDING)
        )
        split = [block for block in blocks if block.state == FREE and block.is_split and block.segment is None]
        assert stats["inactive_split_bytes.all.current"] == sum(block.size for block in split)
        assert stats["inactive_split.all.current"] == len(split)
        for name in ("allocated_bytes", "active_bytes", "reserved_bytes", "segment", "inactive_split_bytes"):
            parts = stats[f"{name}.small_pool.current"] + stats[f"{name}.large_pool.current"]
            assert stats[f"{name}.all.current"] == parts
            assert stats[f"{name}.all.peak"] >= stats[f"{name}.all.current"] >= 0
            assert stats[f"{name}.all.allocated"] - stats[f"{name}.all.freed"] == stats[f"{name}.all.current"]

    @invariant()
    def levels_are_ordered(self) -> None:
        allocator = self.allocator
        assert allocator.allocated_bytes <= allocator.active_bytes <= allocator.reserved_bytes
        if allocator.device.total_bytes is not None:
            assert allocator.reserved_bytes <= allocator.device.total_bytes

    def teardown(self) -> None:
        if hasattr(self, "allocator"):
            self.the_same_traffic_gives_the_same_answer()
            self.frees_restore()

    def the_same_traffic_gives_the_same_answer(self) -> None:
        allocator = CachingAllocator(self.arguments[0], device_bytes=self.arguments[1])
        live: list[Block] = []
        pending: list[Block] = []
        placed: list[int | None] = []
        for action, first, second in self.log:
            if action == "malloc":
                try:
                    live.append(allocator.malloc(first, second))
                    placed.append(live[-1].address)
                except OutOfMemoryError:
                    placed.append(None)
            elif action == "free":
                allocator.free(live.pop(first))
            elif action == "request_free":
                pending.append(live.pop(first))
                allocator.request_free(pending[-1])
            elif action == "complete_free":
                allocator.complete_free(pending.pop(0))
            elif action == "begin_capture":
                allocator.begin_capture("graph", streams=[1])
            elif action == "end_capture":
                allocator.end_capture("graph")
                allocator.release_pool("graph")
            else:
                allocator.empty_cache()
        assert placed == self.placed
        assert allocator.memory_stats() == self.allocator.memory_stats()

    def frees_restore(self) -> None:
        if self.captured:
            self.end_capture()
        for block in self.live:
            self.allocator.free(block)
        self.allocator.empty_cache()
        assert self.allocator.reserved_bytes == self.allocator.active_bytes == 0
        assert list(self.allocator.segments()) == []


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

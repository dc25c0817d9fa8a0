"""Play a tape through the simulator: only sizes, streams, order and frees go in, what it reserves comes out."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from memprof.allocator.blocks import Block
from memprof.allocator.device import SegmentEvent
from memprof.allocator.native import CachingAllocator
from memprof.allocator.oom import OutOfMemoryError
from memprof.allocator.rules import RULES, Rules
from memprof.allocator.settings import Settings, parse_conf
from memprof.model.tape import Tape

_RELEASES = ("segment_free", "segment_unmap")
_GROWTHS = ("segment_alloc", "segment_map")


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a tape ended under some settings; bytes.

    Attributes:
        segment_events: (index of the tape's event that caused it, what the simulator did).
        empty_caches: indices of the tape's events at which the program emptied the cache.
        oom: the first request that failed, and ``oom_index`` its event; None where all were served.
        segment_addresses: where the tape's initial segments were put.
        allocator: as it was left.
    """

    segment_events: list[tuple[int, SegmentEvent]]
    empty_caches: list[int]
    oom: OutOfMemoryError | None
    oom_index: int | None
    segment_addresses: list[int]
    allocator: CachingAllocator

    @property
    def peak_reserved_bytes(self) -> int:
        return self.allocator.stats.reserved_bytes[0].peak

    @property
    def peak_allocated_bytes(self) -> int:
        return self.allocator.stats.together.bytes

    @property
    def peak_requested_bytes(self) -> int:
        return self.allocator.stats.together.requested

    @property
    def end_reserved_bytes(self) -> int:
        return self.allocator.reserved_bytes

    @property
    def end_allocated_bytes(self) -> int:
        return self.allocator.allocated_bytes

    @property
    def num_segment_allocs(self) -> int:
        return sum(event.action in _GROWTHS for _, event in self.segment_events)


def recorded_settings(tape: Tape) -> Settings:
    """The settings under which a tape was recorded."""
    conf = str(tape.allocator_settings.get("PYTORCH_CUDA_ALLOC_CONF") or "")
    if conf:
        return parse_conf(conf)
    return Settings(expandable_segments=tape.expandable_segments)


def replay(
    tape: Tape,
    settings: Settings | None = None,
    *,
    device_bytes: int | None = None,
    other_bytes: int = 0,
    empty_caches: Collection[int] | None = None,
    on_block: Callable[[int | None, Block], None] | None = None,
    rules: Rules = RULES,
) -> ReplayResult:
    """Feed a tape to the simulator, from its initial segments on, until its end or the first request that fails.

    A failed request on the tape (``oom``) is tried again; where it is served now, its block is freed at once and the
    rest, the program's clean-up, is played. It is never taken for an answer that the tape gave.

    Args:
        settings: None: those of the recording.
        empty_caches: what ``empty_caches`` of a replay under the recorded settings found; None: find them. A run of
            ``segment_free`` that gives back all that could be is the program's own, unless the device was full.
        on_block: told each block's id and place, those of the initial segments first.
    """
    settings = recorded_settings(tape) if settings is None else settings
    done: list[tuple[int, SegmentEvent]] = []
    index = 0
    allocator = CachingAllocator(
        settings,
        device_bytes=device_bytes,
        other_bytes=other_bytes,
        rules=rules,
        on_segment=lambda event: done.append((index, event)),
    )
    blocks, segment_addresses = _restore(tape, allocator)
    if on_block is not None:
        for key, block in blocks.items():
            on_block(key, block)
    runs = _release_runs(tape) if empty_caches is None else {}
    emptied = [] if empty_caches is None else sorted(empty_caches)
    actions = tape.column("action")
    oom: OutOfMemoryError | None = None
    oom_index: int | None = None
    try:
        for index, (action, key, size, stream) in enumerate(
            zip(actions, tape.events.block, tape.events.size, tape.events.stream, strict=True)
        ):
            if action == "alloc":
                block = blocks[key] = allocator.malloc(size, stream)
                if on_block is not None:
                    on_block(key, block)
            elif action == "free_requested":
                allocator.request_free(blocks[key])
            elif action == "free_completed":
                allocator.complete_free(blocks.pop(key))
            elif action == "oom":
                failed = _try_again(allocator, size, stream)
                if failed is not None and oom is None:
                    oom, oom_index = failed, index
            elif index in runs and _is_empty_cache(allocator, *runs[index]):
                emptied.append(index)
                allocator.empty_cache()
            elif empty_caches is not None and index in empty_caches:
                allocator.empty_cache()
    except OutOfMemoryError as error:
        if oom is None:
            oom, oom_index = error, index
    return ReplayResult(
        segment_events=done,
        empty_caches=emptied,
        oom=oom,
        oom_index=oom_index,
        segment_addresses=segment_addresses,
        allocator=allocator,
    )


def _try_again(allocator: CachingAllocator, size: int, stream: int) -> OutOfMemoryError | None:
    try:
        allocator.free(allocator.malloc(size, stream))
    except OutOfMemoryError as error:
        return error
    return None


def _restore(tape: Tape, allocator: CachingAllocator) -> tuple[dict[int | None, Block], list[int]]:
    """The initial segments: blocks by id, and where each segment was put."""
    blocks: dict[int | None, Block] = {}
    addresses = []
    for segment in tape.initial_segments:
        made = allocator.restore_segment(
            [(size, key is not None) for size, key in segment.blocks],
            is_small=segment.pool == "small",
            stream=segment.stream,
            is_expandable=segment.is_expandable or tape.expandable_segments,
        )
        blocks.update((key, block) for (_, key), block in zip(segment.blocks, made, strict=True) if key is not None)
        addresses.append(made[0].address)
    return blocks, addresses


def _release_runs(tape: Tape) -> dict[int, tuple[list[int], str, int]]:
    """Runs of releases by first index: their sizes, and the action and size that follow."""
    actions, sizes = tape.column("action"), tape.events.size
    runs: dict[int, tuple[list[int], str, int]] = {}
    index = 0
    while index < len(actions):
        start = index
        while index < len(actions) and actions[index] in _RELEASES:
            index += 1
        if index > start:
            after = (actions[index], sizes[index]) if index < len(actions) else ("", 0)
            runs[start] = (sorted(sizes[start:index]), *after)
        index += 1
    return runs


def _is_empty_cache(allocator: CachingAllocator, sizes: list[int], action: str, size: int) -> bool:
    """Whether the program emptied the cache, and not the allocator because the device was full."""
    was_full = action == "oom" or (action in _GROWTHS and not allocator.device.fits(size))
    return not was_full and allocator.releasable() == sizes

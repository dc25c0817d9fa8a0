"""The CUDA caching allocator, simulated byte for byte.

``CachingAllocator`` is the simulator; ``play`` puts a Timeline through it, ``replay`` a tape.
"""

from memprof.allocator.device import SegmentEvent
from memprof.allocator.native import CachingAllocator
from memprof.allocator.oom import OutOfMemoryError
from memprof.allocator.play import play
from memprof.allocator.replay import ReplayResult, recorded_settings, replay
from memprof.allocator.result import PlayResult
from memprof.allocator.settings import Settings, parse_conf

__all__ = [
    "CachingAllocator",
    "OutOfMemoryError",
    "PlayResult",
    "ReplayResult",
    "SegmentEvent",
    "Settings",
    "parse_conf",
    "play",
    "recorded_settings",
    "replay",
]

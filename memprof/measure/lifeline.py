"""How a process that was started for one run ends with the one that started it, however that ends."""

from __future__ import annotations

import os
import signal


def hold() -> None:
    """From here on, this process and all it starts end when the other end of standard input is closed.

    A small process waits there, in this one's process group, which has to be its own: whoever started it keeps the
    other end and says nothing. The system closes it when that process is gone, be it by ``kill -9``; the watcher then
    ends the group, however busy the others are. To be called before threads and libraries are there, as it forks.
    """
    if os.fork() == 0:
        os.read(0, 1)
        os.killpg(0, signal.SIGKILL)

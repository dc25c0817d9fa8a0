"""A process for one question, as ``memprof.verify.process`` starts it, that ends as the question says.

The question: how, and where the ids of this process and of one that it started are written to.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

from memprof.measure import lifeline
from memprof.verify.process import answered


def main() -> None:
    lifeline.hold()
    how, ids = Path(sys.argv[1]).read_text().split(" ", 1)
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    draft = Path(f"{ids}.part")
    draft.write_text(f"{os.getpid()} {started.pid}")
    draft.replace(ids)
    if how == "answer":
        answered(Path(sys.argv[2]), b"42")
    elif how == "abort":
        os.abort()
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "raise":
        raise ValueError("no such luck")
    else:
        time.sleep(600)


if __name__ == "__main__":
    main()

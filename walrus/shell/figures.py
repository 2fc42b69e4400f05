"""What the operating system knows of this process, for METRICS: disk, processor, memory, descriptors.

Each figure is read when it is asked for, so nothing is measured that nothing looks at. One that cannot be
read is left out: a metric that is missing is noticed, one that says 0 is believed.
"""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_STARTED = time.time()


def disk(path: Path) -> dict[str, Any]:
    """Room on the file system of a directory, in bytes: `disk_total_bytes`, `disk_free_bytes`.

    Free is what this process may still write, without the share that is kept for root.
    """
    with suppress(OSError):
        found = os.statvfs(path)
        return {
            "disk_total_bytes": found.f_frsize * found.f_blocks,
            "disk_free_bytes": found.f_frsize * found.f_bavail,
        }
    return {}


def process() -> dict[str, Any]:
    """Return `pid`, `started_at` (seconds since the epoch), `cpu_seconds`, and on Linux `resident_bytes` and
    `open_files`."""
    times = resource.getrusage(resource.RUSAGE_SELF)
    figures = {"pid": os.getpid(), "started_at": _STARTED, "cpu_seconds": times.ru_utime + times.ru_stime}
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        figures["resident_bytes"] = pages * resource.getpagesize()
        figures["open_files"] = len(os.listdir("/proc/self/fd"))
    return figures

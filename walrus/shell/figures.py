"""Figures of the operating system about this process, for METRICS: disk, processor, memory, descriptors.

Each figure is read when METRICS asks for it, and costs nothing otherwise. A figure that cannot be read is
left out, since a missing metric is noticed, while a value of 0 would be taken for a measurement.
"""

from __future__ import annotations

import gc
import os
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_STARTED = time.time()


def disk(path: Path) -> dict[str, Any]:
    """Return size and room of a directory's file system: `disk_total_bytes`, `disk_free_bytes`.

    `disk_free_bytes` is what this process may still write, without the share that is reserved for root.
    Empty if the file system cannot be read.
    """
    with suppress(OSError):
        found = os.statvfs(path)
        return {
            "disk_total_bytes": found.f_frsize * found.f_blocks,
            "disk_free_bytes": found.f_frsize * found.f_bavail,
        }
    return {}


def process() -> dict[str, Any]:
    """Return `pid`, `started_at` (seconds since the epoch), `cpu_seconds`, `garbage_collections` (of what is
    young, garbage.py), and on Linux `resident_bytes` and `open_files`."""
    times = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "pid": os.getpid(),
        "started_at": _STARTED,
        "cpu_seconds": times.ru_utime + times.ru_stime,
        "garbage_collections": gc.get_stats()[1]["collections"],
    }
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        figures["resident_bytes"] = pages * resource.getpagesize()
        figures["open_files"] = len(os.listdir("/proc/self/fd"))
    return figures

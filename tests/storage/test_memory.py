"""A log that grows does not make the process grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from walrus import FsyncSchedule, Walrus

PROC = Path("/proc/self/status")
MIB = 1 << 20


def mapped() -> int:
    """Bytes of mapped files that this process has in memory."""
    (line,) = [line for line in PROC.read_text().splitlines() if line.startswith("RssFile")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not PROC.exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("backend", ["pwritev", "mmap"])
def test_a_long_log_is_not_mapped_from_end_to_end(tmp_path: Path, backend: str) -> None:
    with Walrus(tmp_path, fsync=FsyncSchedule.no_fsync(), backend=backend) as wal:
        before, entry = mapped(), bytes(16_000)
        for _ in range(3_000):
            wal.append_for_topic("t", entry)
        assert mapped() - before < 16 * MIB, "48 MB were written"
        assert sum(map(len, wal.payloads("t"))) == 3_000 * len(entry)
        assert mapped() - before < 16 * MIB, "... and read"

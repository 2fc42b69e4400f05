"""`kill -9` in a loop, on the real disk: what was acknowledged is there, and the rest is a prefix."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.stores import entries_of, uring_available
from walrus import FsyncSchedule, Walrus

WRITER = """
import os, sys
from walrus import FsyncSchedule, Walrus
wal = Walrus(sys.argv[1], backend=sys.argv[2], fsync=eval("FsyncSchedule." + sys.argv[3]))
number = wal.bounds("t")[1]
while True:
    size = number * 7919 % 3000
    if number % 5:
        wal.append_for_topic("t", b"%08d" % number * (size // 8))
        number += 1
    else:
        wal.batch_append_for_topic("t", [b"%08d" % n * (size // 8) for n in range(number, number + 7)])
        number += 7
    wal.read_next("t")
    os.write(1, b"%d\\n" % number)
"""


@pytest.mark.parametrize("schedule", ["sync_each()", "no_fsync()"])
@pytest.mark.parametrize("backend", ["pwritev", "mmap", "io_uring"])
def test_kill_in_a_loop(tmp_path: Path, backend: str, schedule: str) -> None:
    if backend == "io_uring" and not uring_available(tmp_path / "probe"):
        pytest.skip("io_uring is not available here")
    rng = random.Random(backend + schedule)
    directory, acknowledged = tmp_path / "log", 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(directory), backend, schedule]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        for _ in range(rng.randrange(1, 150)):
            acknowledged = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
        child.wait()
        with Walrus(directory, backend=backend, fsync=FsyncSchedule.no_fsync()) as wal:
            found = entries_of(wal, "t")
            assert len(found) >= acknowledged, "AckedDurable"
            for number, entry in enumerate(found):
                assert entry == b"%08d" % number * (len(entry) // 8), (
                    f"SeqOrder: {entry[:16]!r} is at {number}"
                )
            assert wal.recovery.damage == [] == wal.verify(), "AckedDurable: damage without rot"
            acknowledged = len(found)

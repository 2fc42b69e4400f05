"""One way to open, crash and reopen an engine on any of the backends."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from walrus import Walrus
from walrus.sim.disk import Platter
from walrus.storage.errors import CorruptionError
from walrus.storage.scan import records
from walrus.storage.uring import UringDisk

REAL = ("pwritev", "mmap", "io_uring")


def uring_available(directory: Path) -> bool:
    """Whether this kernel lets us have a ring."""
    try:
        UringDisk(directory).close()
    except OSError:
        return False
    return True


def entries_of(wal: Walrus, topic: str) -> list[bytes]:
    """All entries of a topic on a disk without rot, where none that is counted may be unreadable."""
    try:
        return list(wal.payloads(topic))
    except CorruptionError as error:
        raise AssertionError(f"AckedDurable: an entry is counted and cannot be read: {error}") from error


def places(wal: Walrus, topic: str, *, block: int = -1) -> list[tuple[int, int]]:
    """Where in its file each record of one of the topic's blocks (the last) is: (start, end)."""
    of = wal._engine.logs[topic].blocks[block]
    view, start = wal._engine.space.view(of.extent), of.extent.offset
    found = records(view, of.life, of.head.start, of.extent.size)
    return [(start + each.offset, start + each.end) for each in found]


class Store:
    """A directory on some backend. `crash` is a killed process: what was handed to the OS is all there."""

    def __init__(self, backend: str, root: Path) -> None:
        self.backend = backend
        self.root = root
        self.lives = 0
        self.platter = Platter(random.Random(1))
        self.opened: list[Walrus] = []

    @property
    def directory(self) -> Path:
        """Where the files of this life are (real backends only)."""
        return self.root / f"life{self.lives}"

    def open(self, **options: Any) -> Walrus:
        """Open the log, again if it was opened before."""
        if self.backend == "simulated":
            wal = Walrus(disk=self.platter.directory("log"), **options)
        else:
            wal = Walrus(self.directory, backend=self.backend, **options)
        self.opened.append(wal)
        return wal

    def crash(self) -> None:
        """Leave the engine without a word, as `kill -9` does."""
        if self.backend == "simulated":
            self.platter.kill()
            self.opened.clear()
            return
        before = self.directory
        self.lives += 1
        shutil.copytree(before, self.directory)

    def reopen(self, wal: Walrus, *, crash: bool, **options: Any) -> Walrus:
        """Close it or kill it, and open it again."""
        if crash:
            self.crash()
        else:
            wal.close()
        return self.open(**options)

    def data_files(self) -> list[str]:
        """Names of the data files."""
        if self.backend == "simulated":
            return self.platter.directory("log").names()
        return sorted(path.name for path in self.directory.glob("*.wal"))

    def close(self) -> None:
        """Let go of everything."""
        for wal in self.opened:
            wal.close()

"""A read-only view of a disk, through which `python -m walrus.wal verify` examines a directory.

Opening a log recovers it, and recovery writes: it cuts torn tails. An inspection must not, for the
directory may be evidence, a backup, or on a file system that is mounted read-only. So files are opened for
reading and mapped privately: a write goes to the process's own copy of the page, is visible to all reads
through this disk, and vanishes with it. A file that was written to stays mapped until then; new files exist
in memory only.

The directory is still locked, if it has a lock file: a log that another process writes to has no state that
could be verified. `flock` needs no permission to write.

Invariant: no byte of the directory changes.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from walrus.storage.backend import Buffer
from walrus.storage.errors import DirectoryInUse
from walrus.storage.posix import LOCK_NAME, Descriptor, PosixDisk, PosixFile
from walrus.storage.processes import Holder


class LookedAtFile(PosixFile):
    """A file whose writes stay in this process."""

    def __init__(self, path: Path, fd: int, written: list[LookedAtFile]) -> None:
        super().__init__(path, fd)
        self._written = written

    def _mapping(self) -> mmap.mmap:
        if self._map is None:
            self._map = mmap.mmap(self.fd, self.size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        return self._map

    @property
    def pwrite(self) -> Callable[[Buffer, int], int]:
        """Into the private mapping."""
        return partial(_store, self._mapping(), self._written, self)

    def pwritev(self, parts: Sequence[Buffer], offset: int) -> int:
        """The same, for all parts."""
        return self.pwrite(b"".join(parts), offset)

    def pread(self, length: int, offset: int) -> bytes:
        """From the mapping, which has what was written."""
        return self._mapping()[offset : offset + length]

    def zeros_from(self, offset: int, limit: int) -> int:
        """Not told by the file once there are writes beside it."""
        return limit if self in self._written else super().zeros_from(offset, limit)

    def forget(self, offset: int, length: int) -> None:
        """Nothing: a private page that was written to would be lost."""

    def sync(self) -> None:
        """There is nothing that could last."""


class LookedAtDisk(PosixDisk):
    """A directory that stays as it is (see `walrus.storage.backend.Disk`)."""

    backend = "read-only"

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        super().__init__(directory, create=False)
        self._written: list[LookedAtFile] = []
        self._made: dict[str, LookedAtFile] = {}

    def lock(self) -> None:
        """Take the lock if there is one to take; one that was copied without it has no owner."""
        path = self._directory / LOCK_NAME
        try:
            self._lock = Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return
        try:
            fcntl.flock(self._lock.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = Holder.parsed(os.pread(self._lock.number, 200, 0))
            raise DirectoryInUse(self.path, holder.pid) from None

    def open(self, name: str) -> PosixFile:
        """An existing file, or one that was made here."""
        if name in self._made:
            return self._made[name]
        path = self._directory / name
        return self._remember(LookedAtFile(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC), self._written))

    def create(self, name: str, size: int) -> PosixFile:
        """A file in memory."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC) if hasattr(os, "memfd_create") else _nameless()
        os.ftruncate(fd, size)
        made = self._made[name] = LookedAtFile(self._directory / name, fd, self._written)
        self._remember(made)
        return made

    def rename(self, old: str, new: str) -> None:
        """Of what is on the disk, nothing is renamed."""
        raise OSError(f"{self.path} is only looked at: {old} keeps its name")

    def remove(self, name: str) -> None:
        """What is on the disk stays there."""
        self._made.pop(name, None)

    def sync_directory(self) -> None:
        """There is nothing that could last."""


def _store(
    mapping: mmap.mmap, written: list[LookedAtFile], file: LookedAtFile, data: Buffer, offset: int
) -> int:
    if file not in written:
        written.append(file)
    mapping[offset : offset + len(data)] = bytes(data)
    return len(data)


def _nameless() -> int:
    """A file without a name, where the system has no files in memory."""
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())

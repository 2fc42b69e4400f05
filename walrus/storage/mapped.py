"""The backend that stores records straight into a shared mapping: no system call on the way of an append.

What is stored is in the page cache at once, so a killed process loses nothing; durability is `fdatasync`, as
for the others. Two things are left to system calls, since they are faster at them: bringing pages in (a block
is written with zeros once before it is used; a store into a page that was never touched faults twice as
long) and records of many pages, batches above all. Both ways meet in the same page cache.

Running out of space is no SIGBUS: files are allocated in full before they are mapped. What is one is an I/O
error while a page is read in, which no program can answer; but that page has to have been evicted from a
block that is still being written to, and every backend reads through a mapping.
"""

from __future__ import annotations

import sys
from pathlib import Path

from walrus.storage.posix import PosixDisk, PosixFile, sync_descriptor


class MappedFile(PosixFile):
    """A file into which records are stored by assignment."""

    def window(self, offset: int, length: int) -> memoryview | None:
        """A writable window."""
        return memoryview(self._mapping())[offset : offset + length]

    def sync(self) -> None:
        """msync where fsync does not cover mappings, then the file."""
        if sys.platform != "linux":
            self._mapping().flush()
        sync_descriptor(self.fd)


class MappedDisk(PosixDisk):
    """A directory whose files are written through mappings."""

    backend = "mmap"

    def _file(self, path: Path, fd: int) -> MappedFile:
        return MappedFile(path, fd)

"""The backend that stores records straight into a shared mapping: an append makes no system call.

A store is in the page cache at once, so a killed process loses nothing; `fdatasync` makes it durable, as in
the other backends. System calls do two jobs, since they are faster at them: bringing pages in (a block is
written with zeros once before it is used; a page fault on an untouched page takes twice as long), and
writing records of many pages, batches above all. Both paths meet in the same page cache.

Running out of space causes no SIGBUS: files are allocated in full before they are mapped. An I/O error
while a page is read in does cause one, which no program can handle. But that needs a page evicted from a
block that is still being written to; and every backend reads through a mapping.
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

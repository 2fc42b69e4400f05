"""The backend that stores records straight into a shared mapping: no system call on the way of an append.

What is stored is in the page cache at once, so a killed process loses nothing; durability is `fdatasync`, as
for the others. The price: a record is copied by the processor rather than by the kernel, a page's first store
takes a fault, and an I/O error while reading a page in is a SIGBUS that no program can answer. Running out
of space is not: files are allocated in full before they are mapped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from walrus.storage.backend import Buffer
from walrus.storage.pwritev import PosixDisk, PosixFile, sync_descriptor


class MappedFile(PosixFile):
    """A file written by assignment."""

    def __init__(self, path: Path, fd: int) -> None:
        super().__init__(path, fd)
        self.pwrite = self._store

    def _store(self, data: Buffer, offset: int) -> int:
        self._mapping()[offset : offset + len(data)] = bytes(data)
        return len(data)

    def pwritev(self, parts: Sequence[Buffer], offset: int) -> int:
        """Store the parts end to end."""
        target, start = self._mapping(), offset
        for part in parts:
            target[offset : (offset := offset + len(part))] = part
        return offset - start

    def window(self, offset: int, length: int) -> memoryview | None:
        """A writable window; its pages are brought in at once where the kernel can."""
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

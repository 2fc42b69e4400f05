"""The backend for every Unix: a directory of preallocated files, written by position, read through a mapping.

Reads go through one shared mapping per file, so nothing is copied but the result, and pages belong to the
page cache rather than to the process. Space is allocated when a file is created, so that neither a write
into it nor a store into a mapping of it can run out of room.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from weakref import WeakSet

from walrus.storage.backend import AsyncSync, Buffer
from walrus.storage.errors import DirectoryInUse
from walrus.storage.processes import LockHeld, boot_id, take_lock

LOCK_NAME = "engine.lock"
_ZEROS = bytes(1 << 20)
_F_FULLFSYNC = 51  # macOS: fsync alone leaves the data in the drive's cache


def sync_descriptor(fd: int) -> None:
    """Make what was written to `fd` durable, and as much of its metadata as reading it back needs."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, _F_FULLFSYNC)
    else:
        os.fdatasync(fd)


class Descriptor:
    """Owns a file descriptor: it is closed once, by `close` or when nothing refers to this object any more.

    Noting that it is closed and closing it is one step of the interpreter. An exception from outside between
    two steps would leave it open for ever, or have it closed twice, and by then the number may be that of
    another file.
    """

    number = -1
    _closing: Iterator[None] = iter(())

    def __init__(self, number: int) -> None:
        self._closing = map(os.close, iter((number,)))
        self.number = number

    def close(self) -> None:
        """Close it, unless that was done before."""
        self.number = -1
        next(self._closing, None)

    def __del__(self) -> None:
        self.close()


class PosixFile:
    """An open data file (see `walrus.storage.backend.File`)."""

    def __init__(self, path: Path, fd: int) -> None:
        self._owned = Descriptor(fd)
        self.name = path.name
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self._map: mmap.mmap | None = None

    @property
    def pwrite(self) -> Callable[[Buffer, int], int]:
        """Bound to the descriptor and not to this object: a file that refers to itself closes late."""
        return partial(os.pwrite, self.fd)

    def pwritev(self, parts: Sequence[Buffer], offset: int) -> int:
        """Write the parts end to end at `offset`; how many bytes were taken."""
        return os.pwritev(self.fd, parts, offset)

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes at `offset`."""
        return os.pread(self.fd, length, offset)

    def _mapping(self) -> mmap.mmap:
        if self._map is None:
            self._map = mmap.mmap(self.fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        return self._map

    def view(self, offset: int, length: int) -> memoryview:
        """A read-only window onto the file."""
        return memoryview(self._mapping())[offset : offset + length].toreadonly()

    def forget(self, offset: int, length: int) -> None:
        """Unmap the pages; the page cache keeps them, and the next look maps them again."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, offset, length)

    def window(self, offset: int, length: int) -> memoryview | None:
        """A writable window, where `sync` covers what is stored through it."""
        return memoryview(self._mapping())[offset : offset + length] if sys.platform == "linux" else None

    def zeros_from(self, offset: int, limit: int) -> int:
        """Space that was allocated and never written is a hole to `lseek`."""
        try:
            while offset < limit:
                hole = os.lseek(self.fd, offset, os.SEEK_HOLE)
                offset = os.lseek(self.fd, hole, os.SEEK_DATA)
                if offset >= limit:
                    return min(hole, limit)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind the hole
                return min(hole, limit)
        return limit

    def flush(self) -> None:
        """Nothing is queued."""

    def sync(self) -> None:
        """fdatasync; on Linux it covers what was stored into mappings of the file, too."""
        sync_descriptor(self.fd)

    def __del__(self) -> None:
        self.abandon()

    def close(self) -> None:
        """Let go of it."""
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptor, and nothing else. The mapping goes when the last view of it does."""
        self._owned.close()
        self.fd, self._map = -1, None


class PosixDisk:
    """A directory on a real disk (see `walrus.storage.backend.Disk`)."""

    backend = "pwritev"
    _lock: Descriptor | None = None
    _folder: Descriptor | None = None
    """The directory, open for as long as it is locked: syncing it must not want for a descriptor."""

    def __init__(self, directory: str | os.PathLike[str], *, create: bool = True) -> None:
        self._directory = Path(directory)
        if create:
            _make_directories(self._directory)
        self._files: WeakSet[PosixFile] = WeakSet()

    @property
    def path(self) -> str:
        """The directory."""
        return str(self._directory)

    def lock(self) -> None:
        """Take the directory with `flock`, which ends with the process however that ends."""
        try:
            self._lock = Descriptor(take_lock(self._directory / LOCK_NAME))
        except LockHeld as held:
            raise DirectoryInUse(self.path, held.holder.pid) from None
        self._folder = Descriptor(os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC))

    def names(self) -> list[str]:
        """The files in the directory, sorted."""
        with os.scandir(self._directory) as found:
            return sorted(entry.name for entry in found if entry.is_file() and entry.name != LOCK_NAME)

    def create(self, name: str, size: int) -> PosixFile:
        """A new file of zeros with all its space allocated."""
        path = self._directory / name
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _allocate(fd, size)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        return self._remember(self._file(path, fd))

    def open(self, name: str) -> PosixFile:
        """An existing file."""
        path = self._directory / name
        return self._remember(self._file(path, os.open(path, os.O_RDWR | os.O_CLOEXEC)))

    def _remember(self, file: PosixFile) -> PosixFile:
        self._files.add(file)
        return file

    def _file(self, path: Path, fd: int) -> PosixFile:
        return PosixFile(path, fd)

    def rename(self, old: str, new: str) -> None:
        """Atomically."""
        (self._directory / old).replace(self._directory / new)

    def remove(self, name: str) -> None:
        """Unlink."""
        (self._directory / name).unlink()

    def sync_directory(self) -> None:
        """fsync of the directory itself."""
        assert self._folder is not None, "lock() it first"
        os.fsync(self._folder.number)

    def random_id(self) -> int:
        """From the operating system."""
        return secrets.randbits(64)

    def boot_id(self) -> bytes:
        """The kernel's random number for this boot."""
        return boot_id()

    def async_sync(self) -> AsyncSync | None:
        """None: system calls block, the engine uses a thread."""
        return None

    def interrupted(self) -> None:
        """There are no locks."""

    def abandon(self) -> None:
        """See `Disk.abandon`: the lock stays with the parent, which has the same open file."""
        for file in list(self._files):
            file.abandon()
        self._release()

    def close(self) -> None:
        """Release the lock."""
        self._release()

    def __del__(self) -> None:
        """An engine that an exception kept from opening does not keep the directory."""
        self._release()

    def _release(self) -> None:
        if self._folder is not None:
            self._folder.close()
        if self._lock is not None:
            self._lock.close()


def _make_directories(directory: Path) -> None:
    """mkdir -p, with every new name made durable in its parent."""
    if directory.is_dir():
        return
    _make_directories(directory.parent)
    with contextlib.suppress(FileExistsError):
        directory.mkdir()
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make creations, renames and removals in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _allocate(fd: int, size: int) -> None:
    """Give the file `size` bytes of real space, by writing zeros where the system has no better way."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    offset = 0
    while offset < size:
        offset += os.pwrite(fd, _ZEROS[: size - offset], offset)

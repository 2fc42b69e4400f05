"""The engine's door to the disk: two small interfaces that every backend implements.

A `Disk` is one directory of files; a `File` is one of them. The engine does *everything* through these two,
so a simulated disk (`walrus/sim/disk.py`) can lose, tear, reorder, flip, fill and fail whatever the engine
relies on, and the three real backends differ only in how bytes get in:

    pwritev     os.pwrite / os.pwritev at a position           (walrus/storage/posix.py)
    mmap        assignment into a shared mapping                (walrus/storage/mapped.py)
    io_uring    queued, and submitted together with the fsync   (walrus/storage/uring.py)

What the engine assumes of a disk, and a simulated one may therefore do at worst:

* What was written is visible to later reads of this process at once, whether or not it is synced, and
  survives a `kill -9` of the process (a write that was being made at that instant may be there in part).
* After a power loss a file holds what it held at its last successful `sync`, plus any part, in 512-byte
  pieces and in any order, of what was written since; a piece that was never synced may be garbage. Bytes that
  were synced and are not themselves overwritten keep their value ("powersafe overwrite", as SQLite calls it),
  even where a neighbour in the same sector is being written.
* A file created, renamed or removed is so durably only after `sync_directory`. A rename is atomic.
* `pwrite` may write less than it was given; errors are `OSError` with the kernel's errno; ENOSPC, EDQUOT
  and EFBIG mean that there is no room, EMFILE and ENFILE that no descriptor is left; either may change
  later. After a failed `sync`, a later one that succeeds proves nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from walrus.storage.errors import DiskFull, EngineFailed, StorageError

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What can be written: bytes-like, contiguous, one byte an item."""

SECTOR = 512
"""Bytes that a disk writes as one piece."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}


class File(Protocol):
    """One file of a fixed size, open for reading and writing. Offsets and lengths are bytes."""

    @property
    def name(self) -> str:
        """Its name inside the directory."""

    @property
    def size(self) -> int:
        """Its size; every byte of it has space behind it on disk."""

    @property
    def pwrite(self) -> Callable[[Buffer, int], int]:
        """`pwrite(data, offset)`: write, return how many bytes were taken (which may be fewer).

        A property, so that a backend can hand out a C function already bound to its descriptor.
        """

    def pwritev(self, parts: Sequence[Buffer], offset: int) -> int:
        """Write the parts end to end at `offset`; how many bytes were taken (which may be fewer)."""

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes at `offset`; fewer only at the end of the file."""

    def view(self, offset: int, length: int) -> memoryview:
        """A read-only window that shows later writes too (after `flush`). `offset` is a multiple of 16 KiB.

        The engine keeps it for as long as it reads the block; it goes away with the last reference.
        """

    def forget(self, offset: int, length: int) -> None:
        """Views of this range are not read soon: take it out of the process's memory, not out of caches."""

    def window(self, offset: int, length: int) -> memoryview | None:
        """The same, writable; None where what is stored through it would pass by a sync, or by a queue."""

    def zeros_from(self, offset: int, limit: int) -> int:
        """Where a run of zeros begins that reaches up to `limit`, not before `offset`.

        Found without reading, so it may be later than the truth (or `limit`, if nothing is known).
        """

    def flush(self) -> None:
        """Hand queued writes to the OS so that views show them. Nothing to do unless writes are queued."""

    def sync(self) -> None:
        """Make everything written before this call durable, queued writes included (`fdatasync`)."""

    def close(self) -> None:
        """Let go of it; closing twice is allowed."""


class AsyncSync(Protocol):
    """One sync of several files at a time, without blocking: an io_uring or a simulated clock behind it."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when the sync that was started is done."""

    def start(self, files: Sequence[File]) -> None:
        """Begin making all that was written to `files` before this call durable. Never while one runs."""

    def finish(self) -> None:
        """Take the notification and raise the `OSError` of the sync (or of a write queued before it)."""

    def close(self) -> None:
        """Wait for one under way, then release the descriptor."""


class Disk(Protocol):
    """One directory of files, flat: names are plain file names chosen by the engine."""

    @property
    def backend(self) -> str:
        """The backend's name, for messages."""

    @property
    def path(self) -> str:
        """The directory, for messages."""

    def lock(self) -> None:
        """Make this the only engine on the directory, or raise `DirectoryInUse` naming the holder."""

    def names(self) -> list[str]:
        """The files in the directory, sorted (without the lock)."""

    def create(self, name: str, size: int) -> File:
        """A new file of `size` zero bytes, space allocated. Leaves nothing behind when it fails."""

    def open(self, name: str) -> File:
        """An existing file."""

    def rename(self, old: str, new: str) -> None:
        """Atomically; what was called `new` is gone."""

    def remove(self, name: str) -> None:
        """Unlink it."""

    def sync_directory(self) -> None:
        """Make creations, renames and removals durable."""

    def random_id(self) -> int:
        """64 random bits, never the same twice: what tells the lives of a block apart."""

    def boot_id(self) -> bytes:
        """Up to 16 bytes that differ after every start of the machine (a power loss included).

        Equal to the value of an earlier run: everything that run wrote is still visible, synced or not.
        Empty when the platform has none.
        """

    def async_sync(self) -> AsyncSync | None:
        """A way to sync without blocking, or None: then the engine uses a worker thread and `File.sync`."""

    def close(self) -> None:
        """Release the lock."""

    def interrupted(self) -> None:
        """An exception from outside has cut a call of this thread: give back what it may still hold."""

    def abandon(self) -> None:
        """In a forked copy: close every descriptor, those of files too; write and wait for nothing."""


def no_descriptor(error: OSError) -> bool:
    """Whether nothing is wrong with the disk, and the process (or the system) has too many files open."""
    return error.errno in _NO_DESCRIPTORS


def write_all(file: File, parts: Sequence[Buffer], offset: int) -> None:
    """Write all the parts end to end at `offset`: short writes are completed, never ignored."""
    parts = [part for part in parts if len(part)]
    missing = sum(map(len, parts))
    while missing:
        taken = file.pwritev(parts, offset)
        if taken <= 0:
            raise OSError(errno.EIO, "the disk takes no more bytes and gives no reason", file.name)
        missing -= taken
        if missing:
            offset += taken
            parts = _without(parts, taken)


def _without(parts: Sequence[Buffer], taken: int) -> Sequence[Buffer]:
    """The parts that are left when the first `taken` bytes of them are done."""
    for number, part in enumerate(parts):
        if taken < len(part):
            return [memoryview(part)[taken:], *parts[number + 1 :]]
        taken -= len(part)
    return []


def translated(error: OSError, doing: str) -> StorageError:
    """The engine's error for an error of the operating system, met while `doing` something."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _NO_ROOM:
        return DiskFull(f"no room while {doing} ({reason}): nothing was written; free space and write again")
    if no_descriptor(error):  # the disk is sound, and the next attempt may find one
        return DiskFull(f"{reason} while {doing}: nothing was written; close some or raise ulimit -n")
    return EngineFailed(f"{doing} failed ({reason}): no more writes until the log is opened again")

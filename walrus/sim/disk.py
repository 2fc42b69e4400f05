"""A simulated disk: everything bad that `walrus.storage.backend` allows a disk to do, on demand or by seed.

The disk and a process's access to it are separate, because only the disk outlives the process:

* `Platter` is the machine's disk: what remains after the process dies or the power fails. It holds
  directories of files, decides what a crash costs, and carries the ordered faults (`fail`, `crash_at`,
  `flip_bit`, `capacity`, `short_writes`).
* `SimDisk` and `SimFile` are one process's handles on it, a `Disk` and a `File`. They die with the process:
  after a crash every operation on an old handle raises `Crash` again, so that the `finally` clauses of a
  dead engine cannot write a clean shutdown to the disk.

Visible and durable. A file's bytes are kept once, as the process sees them (the page cache), next to a list
of *pending* writes: those since the last sync, each with the bytes it replaced. So a write costs one slice
and one append however large the file is, a sync clears the list, and only a power loss is expensive:

      visible   ......AAAAAAAABBBBBBBBBBB.....      one buffer; views of it see every write at once
      pending   [(6, old, "AAAAAAAA"), (14, old, "BBBBBBBBBBB")]
      sectors   |-------|-------|-------|----|      (512 bytes)

A power loss undoes the pending writes, then lets each sector have any prefix of the writes that touched it:
so unsynced writes to different sectors survive in any combination (they were reordered), those to one sector
in order (the page cache holds one version of it), and a write that spans sectors may survive in part (it is
torn). The bytes that a lost write would have put there may also be garbage. Bytes that no unsynced write
touched never change, even in the middle of a torn sector.

A failed sync follows what kernels do: the pages are marked clean although they are not on disk. The writes
stay visible, and *no later sync makes them durable*, even one that succeeds. `doomed` keeps what is really
on disk in those sectors. An engine that retries a failed fsync and trusts the result loses data here, as it
would on real hardware.

Invariants
* Equal seeds and equal calls give equal disks: all randomness is the `rng` that was handed in, names are
  sorted.
* Undoing all pending writes of a file and putting `doomed` sectors in place gives exactly its durable bytes.
* A handle from before the last crash changes nothing.

Left out: latency (the simulator delays the *completion* of a sync by its own clock: `SimSync.start`, some
virtual time, `SimSync.finish`) and access times, permissions, subdirectories.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal, NoReturn, TypeAlias

from walrus.storage.backend import SECTOR, Buffer, File
from walrus.storage.errors import DirectoryInUse

Operation: TypeAlias = Literal["read", "write", "sync", "create", "rename", "remove", "sync_directory"]
"""Kinds of operation that can be made to fail. `read` covers `pread`, `view` and `open`."""

_LAZY_BYTES = 1 << 16
"""Size in bytes from which a file lives in an anonymous mapping, whose untouched pages cost nothing."""


class Crash(BaseException):
    """The process is gone. Not an `Exception`, so that the engine cannot catch it and go on."""


@dataclass(slots=True)
class OrderedError:
    """An ordered error: let `skip` operations pass, then fail `times` of them (None: for good)."""

    code: int
    skip: int = 0
    times: int | None = 1

    def strikes(self) -> bool:
        """Return whether this operation fails; counts it."""
        if self.skip:
            self.skip -= 1
            return False
        if self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(slots=True)
class Pending:
    """A write that no sync has covered: its offset, the bytes that were there before, and the new bytes."""

    offset: int
    old: bytes
    new: bytes


@dataclass(slots=True, eq=False)
class Inode:
    """A file's content, apart from its name."""

    number: int
    size: int
    visible: memoryview
    pending: list[Pending] = field(default_factory=list)
    synced: int = 0
    """How many writes have left `pending` so far: the number of the first one in it."""
    doomed: dict[int, bytes] = field(default_factory=dict)
    """Sector number -> what the disk really holds there, after a failed sync."""

    @classmethod
    def empty(cls, number: int, size: int) -> Inode:
        """Return a new file of `size` zero bytes."""
        space = mmap.mmap(-1, size) if size >= _LAZY_BYTES else bytearray(size)
        return cls(number, size, memoryview(space))

    def write(self, data: bytes, offset: int) -> None:
        """Make `data` visible at `offset`, and remember what it replaced."""
        end = offset + len(data)
        self.pending.append(Pending(offset, bytes(self.visible[offset:end]), data))
        self.visible[offset:end] = data

    def sync(self, upto: int) -> None:
        """Make the writes numbered below `upto` durable."""
        count = max(0, upto - self.synced)
        if self.doomed:
            for write in self.pending[:count]:
                self._reach_doomed(write)
        del self.pending[:count]
        self.synced += count

    def _reach_doomed(self, write: Pending) -> None:
        """Put these bytes into doomed sectors too: a later write that is synced does reach the disk."""
        for sector, start, piece in pieces(write.offset, write.new):
            if sector in self.doomed:
                held = bytearray(self.doomed[sector])
                held[start : start + len(piece)] = piece
                self.doomed[sector] = bytes(held)

    def fail_sync(self, upto: int) -> None:
        """The sync failed: the writes below `upto` count as clean, and no later sync makes them durable."""
        count = max(0, upto - self.synced)
        fresh: dict[int, bytearray] = {}
        for write in self.pending[:count]:
            for sector, _, _ in pieces(write.offset, write.new):
                if sector not in self.doomed and sector not in fresh:
                    fresh[sector] = bytearray(self.visible[sector * SECTOR : (sector + 1) * SECTOR])
        for write in reversed(self.pending):
            for sector, start, piece in pieces(write.offset, write.old):
                if sector in fresh:
                    fresh[sector][start : start + len(piece)] = piece
        self.doomed.update((sector, bytes(held)) for sector, held in fresh.items())
        del self.pending[:count]
        self.synced += count

    def lose_power(self, fate: Fate, rng: Random) -> None:
        """Keep what is durable and, of the rest, what `fate` lets survive."""
        pending, self.pending = self.pending, []
        self.synced += len(pending)
        for write in reversed(pending):
            self.visible[write.offset : write.offset + len(write.old)] = write.old
        for sector in sorted(self.doomed):
            if not fate.survives(rng):
                held = self.doomed[sector]
                self.visible[sector * SECTOR : sector * SECTOR + len(held)] = held
        self.doomed.clear()
        by_sector: dict[int, list[tuple[int, bytes]]] = {}
        for write in pending:
            for sector, start, piece in pieces(write.offset, write.new):
                by_sector.setdefault(sector, []).append((sector * SECTOR + start, piece))
        for sector in sorted(by_sector):
            self._settle(by_sector[sector], fate, rng)

    def _settle(self, writes: list[tuple[int, bytes]], fate: Fate, rng: Random) -> None:
        """Settle one sector: keep a prefix of its writes, then perhaps garbage where the next one went."""
        kept = len(writes) if fate.survives(rng) else rng.randrange(len(writes)) if fate.keep else 0
        for offset, piece in writes[:kept]:
            self.visible[offset : offset + len(piece)] = piece
        if kept < len(writes) and rng.random() < fate.garbage:
            offset, piece = writes[kept]
            noise = rng.randbytes(len(piece))
            if self.visible[offset : offset + len(piece)] != piece:  # rewriting the same bytes tears nothing
                self.visible[offset : offset + len(piece)] = noise


@dataclass(frozen=True, slots=True)
class Fate:
    """How mild one power loss is: the chance that an unsynced sector (or directory operation) survives, and
    the chance that a lost one holds garbage instead of its old bytes.
    """

    keep: float
    garbage: float = 0.0

    def survives(self, rng: Random) -> bool:
        """Draw once whether an unsynced write survives."""
        return self.keep >= 1 or (self.keep > 0 and rng.random() < self.keep)


LOSE_ALL, KEEP_ALL = Fate(0.0), Fate(1.0)
FATES = (LOSE_ALL, KEEP_ALL, Fate(0.5), Fate(0.9), Fate(0.5, garbage=0.5), Fate(0.1, garbage=1.0))


def pieces(offset: int, data: bytes) -> list[tuple[int, int, bytes]]:
    """Cut a write at sector boundaries: sector number, position within the sector, bytes.

    >>> [(sector, start, len(piece)) for sector, start, piece in pieces(500, bytes(600))]
    [(0, 500, 12), (1, 0, 512), (2, 0, 76)]
    """
    cut, at, end = [], offset, offset + len(data)
    while at < end:
        sector, start = divmod(at, SECTOR)
        stop = min(end, at - start + SECTOR)
        cut.append((sector, start, data[at - offset : stop - offset]))
        at = stop
    return cut


@dataclass(frozen=True, slots=True)
class NameChange:
    """A directory operation that no directory sync has covered.

    `old` is None for a creation, `new` is None for a removal.
    """

    old: str | None
    new: str | None
    inode: Inode


@dataclass(slots=True)
class Directory:
    """The names of one directory: as visible, as durable, and the changes between them."""

    names: dict[str, Inode] = field(default_factory=dict)
    durable: dict[str, Inode] = field(default_factory=dict)
    changes: list[NameChange] = field(default_factory=list)
    locked: bool = False

    def inodes(self) -> list[Inode]:
        """Return every file that may have a name here after a crash."""
        return [*self.names.values(), *self.durable.values(), *(change.inode for change in self.changes)]

    def apply(self, names: dict[str, Inode], change: NameChange) -> None:
        """Apply `change` to `names`; a change whose predecessor was lost is lost too."""
        if change.old is not None and names.get(change.old) is not change.inode:
            return
        if change.old is not None:
            del names[change.old]
        if change.new is not None:
            names[change.new] = change.inode

    def record(self, change: NameChange) -> None:
        """Make a change visible; the next `sync` makes it durable."""
        self.apply(self.names, change)
        self.changes.append(change)

    def sync(self) -> None:
        """Make all visible names durable."""
        self.durable = dict(self.names)
        self.changes.clear()

    def lose_power(self, fate: Fate, rng: Random) -> None:
        """Lose a suffix of the operations, as with a journal, or any subset; each half the time."""
        names, journalled = dict(self.durable), rng.random() < 0.5
        for change in self.changes:
            if fate.survives(rng):
                self.apply(names, change)
            elif journalled:
                break
        self.names, self.changes = names, []
        self.durable = dict(names)


class Platter:
    """One machine's disk: directories that outlive processes, and the faults ordered for them.

    >>> platter = Platter(Random(1))
    >>> disk = platter.directory("log")
    >>> file = disk.create("a", 1024)
    >>> file.pwrite(b"synced", 0), file.sync(), disk.sync_directory(), file.pwrite(b"not synced", 512)
    (6, None, None, 10)
    >>> platter.lose_power(LOSE_ALL)
    >>> after = platter.directory("log").open("a")
    >>> after.pread(6, 0), after.pread(10, 512)
    (b'synced', b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00')
    """

    def __init__(self, rng: Random, capacity: int | None = None) -> None:
        self.rng = rng
        self.capacity = capacity
        """Bytes that all files together may take; None: unlimited. May be changed at any time."""
        self.short_writes = 0.0
        """The chance that a write of several bytes is short."""
        self.operations = 0
        """Number of operations so far that change something; `crash_at` refers to it."""
        self.boots = 1
        self.incarnation = 0
        self._directories: dict[str, Directory] = {}
        self._failures: dict[str, OrderedError] = {}
        self._crash_at: int | None = None
        self._crash_is_power_loss = True
        self._fate: Fate | None = None
        self._inodes = 0

    # ---- what a test or a simulator orders ----

    def directory(self, name: str) -> SimDisk:
        """Return the running process's handle on the directory `name`; a new one is created durably."""
        return SimDisk(self, name, self._directories.setdefault(name, Directory()))

    def fail(self, operation: Operation, code: int, *, times: int | None = 1, skip: int = 0) -> None:
        """Fail operations of this kind with errno `code`, `times` of them (None: all), after `skip` more."""
        self._failures[operation] = OrderedError(code, skip, times)

    def heal(self) -> None:
        """Cancel every ordered failure and crash."""
        self._failures.clear()
        self._crash_at = None
        self.short_writes = 0.0

    def crash_at(self, operation: int, *, power: bool = True, fate: Fate | None = None) -> None:
        """Die in the middle of the operation with this number (from 1, counted by `operations`)."""
        assert operation > self.operations, f"operation {operation} has passed: {self.operations} are done"
        self._crash_at, self._crash_is_power_loss, self._fate = operation, power, fate

    def kill(self) -> None:
        """`kill -9`: handles are dead, locks are free, everything written is still there."""
        self.incarnation += 1
        self._crash_at = None
        for name in sorted(self._directories):
            self._directories[name].locked = False

    def lose_power(self, fate: Fate | None = None) -> None:
        """Lose power: unsynced data survives as `fate` says (None: one of `FATES`, drawn by the rng)."""
        fate = self.rng.choice(FATES) if fate is None else fate
        self.kill()
        self.boots += 1
        for name in sorted(self._directories):
            directory = self._directories[name]
            everything = {inode.number: inode for inode in directory.inodes()}
            for number in sorted(everything):
                everything[number].lose_power(fate, self.rng)
            directory.lose_power(fate, self.rng)

    def flip_bit(self, directory: str, name: str, bit: int) -> None:
        """Flip one stored bit (counted from the start of the file): visible and durable from now on."""
        inode, (at, shift) = self._directories[directory].names[name], divmod(bit, 8)
        inode.visible[at] ^= 1 << shift
        if at // SECTOR in inode.doomed:
            held = bytearray(inode.doomed[at // SECTOR])
            held[at % SECTOR] ^= 1 << shift
            inode.doomed[at // SECTOR] = bytes(held)

    def image(self) -> dict[tuple[str, str], bytes]:
        """Return every visible file by directory and name: to compare one recovery with another."""
        return {
            (name, file): bytes(directory.names[file].visible)
            for name, directory in sorted(self._directories.items())
            for file in sorted(directory.names)
        }

    @property
    def used(self) -> int:
        """Return the bytes taken by files that have a name."""
        return sum(
            inode.size for directory in self._directories.values() for inode in directory.names.values()
        )

    def check_invariants(self) -> None:
        """Assert what holds at all times, whatever faults were ordered."""
        for name, directory in sorted(self._directories.items()):
            names = dict(directory.durable)
            for change in directory.changes:
                directory.apply(names, change)
            assert names == directory.names, f"{name}: the unsynced changes do not lead to what is visible"
            for inode in directory.names.values():
                assert len(inode.visible) == inode.size
                assert all(write.offset + len(write.new) <= inode.size for write in inode.pending)

    # ---- what the handles ask ----

    def new_inode(self, size: int) -> Inode:
        """Return an empty file of this size. Raises ENOSPC if there is no room."""
        if self.capacity is not None and self.used + size > self.capacity:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._inodes += 1
        return Inode.empty(self._inodes, size)

    def count(self) -> bool:
        """Count an operation that changes something; return whether the process dies in the middle of it."""
        self.operations += 1
        return self.operations == self._crash_at

    def crash(self) -> NoReturn:
        """Carry out the ordered crash. Raises Crash."""
        if self._crash_is_power_loss:
            self.lose_power(self._fate)
        else:
            self.kill()
        raise Crash(f"operation {self.operations}")

    def check_failure(self, operation: Operation) -> None:
        """Raise the error that was ordered for this operation, if it is due."""
        failure = self._failures.get(operation)
        if failure is not None and failure.strikes():
            raise OSError(failure.code, os.strerror(failure.code))


class SimFile:
    """A `File` on a `Platter`, as one process holds it."""

    __slots__ = ("__weakref__", "_disk", "_incarnation", "_inode", "_name", "_platter")

    def __init__(self, disk: SimDisk, name: str, inode: Inode) -> None:
        self._disk = disk
        self._platter = disk.platter
        self._incarnation = disk.incarnation
        self._name = name
        self._inode = inode

    @property
    def name(self) -> str:
        """Return the name under which the file was opened."""
        return self._name

    @property
    def size(self) -> int:
        """Return the size in bytes."""
        return self._inode.size

    def _alive(self) -> Platter:
        if self._incarnation != self._platter.incarnation:
            raise Crash("this handle belongs to a process that is gone")
        return self._platter

    def pwrite(self, data: Buffer, offset: int) -> int:
        """Write `data`, or a part of it if short writes are ordered or the process crashes in it."""
        platter, data = self._alive(), bytes(data)
        assert offset >= 0 and offset + len(data) <= self._inode.size, "a write outside the file"
        dying = platter.count()
        if not dying:
            platter.check_failure("write")
        if len(data) > 1 and (
            dying or (platter.short_writes and platter.rng.random() < platter.short_writes)
        ):
            data = data[: platter.rng.randint(0 if dying else 1, len(data))]
        self._inode.write(data, offset)
        if dying:
            platter.crash()
        return len(data)

    def pwritev(self, parts: Sequence[Buffer], offset: int) -> int:
        """Write the parts one after another, as one operation."""
        return self.pwrite(b"".join(parts), offset)

    def pread(self, length: int, offset: int) -> bytes:
        """Return the visible bytes."""
        self._alive().check_failure("read")
        return bytes(self._inode.visible[offset : offset + length])

    def view(self, offset: int, length: int) -> memoryview:
        """Return a live, read-only view."""
        self._alive().check_failure("read")
        return self._inode.visible[offset : offset + length].toreadonly()

    def forget(self, offset: int, length: int) -> None:
        """Do nothing: nothing is mapped."""

    def window(self, offset: int, length: int) -> memoryview | None:
        """Return None: every byte has to go through `pwrite`, where it can be lost."""
        return None

    def zeros_from(self, offset: int, limit: int) -> int:
        """Return `limit`: which bytes are zero is not known without reading."""
        return limit

    def flush(self) -> None:
        """Do nothing: nothing is queued."""

    def sync(self) -> None:
        """Make everything written so far durable, unless a failure was ordered."""
        self._alive()
        self.sync_upto(self.written)

    @property
    def written(self) -> int:
        """Return how many writes the file has had: the mark that an asynchronous sync takes at its start."""
        return self._inode.synced + len(self._inode.pending)

    def sync_upto(self, mark: int) -> None:
        """Sync the writes made before `written` was `mark`; later ones stay pending."""
        platter = self._alive()
        if platter.count():
            platter.crash()
        try:
            platter.check_failure("sync")
        except OSError:
            self._inode.fail_sync(mark)
            raise
        self._inode.sync(mark)

    def close(self) -> None:
        """Do nothing: there is nothing to release, and closing is allowed after a crash."""


class SimSync:
    """An `AsyncSync` without a descriptor: the simulator calls `finish` when its clock says so."""

    def __init__(self) -> None:
        self._marks: list[tuple[SimFile, int]] | None = None

    def fileno(self) -> int:
        """Return -1: there is nothing to wait for in real time."""
        return -1

    def start(self, files: Sequence[File]) -> None:
        """Remember what has been written by now: `finish` makes that durable."""
        assert self._marks is None, "one sync at a time"
        self._marks = []
        for file in files:
            assert isinstance(file, SimFile)
            self._marks.append((file, file.written))

    def finish(self) -> None:
        """The disk is done: make the marked writes durable, or raise the ordered error."""
        assert self._marks is not None, "finish without start"
        marks, self._marks = self._marks, None
        for file, mark in marks:
            file.sync_upto(mark)

    def close(self) -> None:
        """Leave a sync under way undone: its writes may or may not reach the disk."""
        self._marks = None


class SimDisk:
    """A `Disk`: one directory of a `Platter`, as one process holds it."""

    backend = "simulated"

    def __init__(self, platter: Platter, name: str, directory: Directory) -> None:
        self.platter = platter
        self.incarnation = platter.incarnation
        self.path = name
        self._directory = directory
        self._holds_lock = False

    def _alive(self) -> Directory:
        if self.incarnation != self.platter.incarnation:
            raise Crash("this handle belongs to a process that is gone")
        return self._directory

    def _change(self, operation: Operation) -> Directory:
        """Begin an operation on names. It takes effect completely or, if the process dies, perhaps not."""
        directory = self._alive()
        if self.platter.count():
            self.platter.crash()
        self.platter.check_failure(operation)
        return directory

    def lock(self) -> None:
        """Lock the directory for this process."""
        directory = self._alive()
        if directory.locked:
            raise DirectoryInUse(self.path, 0)
        directory.locked = self._holds_lock = True

    def names(self) -> list[str]:
        """Return the names of the visible files."""
        return sorted(self._alive().names)

    def _inode(self, name: str) -> Inode:
        inode = self._alive().names.get(name)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return inode

    def create(self, name: str, size: int) -> SimFile:
        """Create a file of zeros; after an error there is no file."""
        directory = self._change("create")
        if name in directory.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        inode = self.platter.new_inode(size)
        directory.record(NameChange(None, name, inode))
        return SimFile(self, name, inode)

    def open(self, name: str) -> SimFile:
        """Open an existing file."""
        inode = self._inode(name)
        self.platter.check_failure("read")
        return SimFile(self, name, inode)

    def rename(self, old: str, new: str) -> None:
        """Rename atomically: the new name has the renamed file or its former one, never none."""
        self._inode(old)
        directory = self._change("rename")
        directory.record(NameChange(old, new, directory.names[old]))

    def remove(self, name: str) -> None:
        """Unlink; open handles stay usable."""
        self._inode(name)
        directory = self._change("remove")
        directory.record(NameChange(name, None, directory.names[name]))

    def sync_directory(self) -> None:
        """Make the names durable."""
        self._change("sync_directory").sync()

    def interrupted(self) -> None:
        """Do nothing: there are no locks to reset."""

    def abandon(self) -> None:
        """Do nothing: there are no descriptors to drop."""

    def random_id(self) -> int:
        """Draw an id from the rng, like all randomness here."""
        return self.platter.rng.getrandbits(64)

    def boot_id(self) -> bytes:
        """Return an id that differs after each power loss."""
        return self.platter.boots.to_bytes(16, "big")

    def async_sync(self) -> SimSync:
        """Return a sync that ends when the simulator says so."""
        return SimSync()

    def close(self) -> None:
        """Release the lock, if this process is alive and holds it."""
        if self._holds_lock and self.incarnation == self.platter.incarnation:
            self._directory.locked = self._holds_lock = False

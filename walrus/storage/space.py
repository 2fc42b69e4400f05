"""Where blocks come from and where they go back to: the data files and the free ranges in them.

Files are created whole, with their space allocated and their directory synced, each four times the size of
the last up to 64 MiB, so that a small log stays small and a large one has few files. Blocks are cut from
them first fit and given back to them when their topic no longer needs them.

Giving back takes two syncs, because a block must not be written to while the log on disk still says that it
belongs to a topic (a power loss would then show a topic with a stranger's records in it):

    state     kept in            its header        left when
    free      `Space._free`      zeros, or none    a topic needs room: `allocate`
    used      `Log.blocks`       the topic's       the topic was trimmed or deleted, and the journal notes it
    retired   `Engine._retired`  the topic's       a sync has made the note durable: the header is overwritten
    erased    `Engine._erased`   zeros, maybe not  a second sync has made that durable: `release`
                                 on the disk

After a crash a retired block is used again or, if the note had reached the disk, retired: opening the log
finds the header, and the note says that the topic does not need it. An erased block is free or, if the
header is still there, retired. In no case is a block both free and a topic's.

The free ranges of a file of 64 units, as a few small topics come and go:

    allocate 1, 4 and 16 units   21-63                 blocks at 0, 1-4 and 5-20
    release 1-4                  1-4  21-63
    allocate 2                   3-4  21-63            first fit
    release 5-20                 3-63                  joined with both neighbours
    release 0, 1-2               0-63                  no block left: the file can be removed

**Open files.** The number of data files grows with the data, and a process has few descriptors, so a file
is open only while something refers to it. It then takes two descriptors (Python's mappings have their own).
Long-lived references are bounded, each kind by `MAX_OPEN_FILES`:

    recent     those used last are kept for the next use           dropped if there are no descriptors left
    tails      topics that are appended to                         put to sleep (`Engine.let_go`)
    unsynced   files with writes that are not durable              synced: the kernel reports a disk error to
                                                                   descriptors that were open when it happened

Views keep a mapping for as long as a reader is in it. If the system still grants no descriptor, the kept
files are closed and the call is retried; if that does not help it raises `DiskFull`, which passes with
time, and nothing was written.

Invariants: a unit belongs to one block or to one free range; free ranges of a file do not touch each other; a
file is open once, so that what is queued for it is seen by all who read it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

from walrus.storage.backend import Disk, File, no_descriptor, write_all
from walrus.storage.record import BLOCK_HEAD_SIZE, UNIT

FIRST_FILE_UNITS = 64
LARGEST_FILE_UNITS = 4096
_NAME = re.compile(r"(\d{8})\.wal")

MAX_OPEN_FILES = 64
"""Data files that each of the three reasons above keeps open."""

_T = TypeVar("_T")


class Extent(NamedTuple):
    """A range of units of one data file: a block's place, or a free one."""

    file: int
    start: int
    units: int

    @property
    def offset(self) -> int:
        """Its first byte."""
        return self.start * UNIT

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.units * UNIT


class FileGone(LookupError):
    """The file held no block any more and was removed."""


class Space:
    """The data files of one engine. Every method may be called from any thread."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.lock = RLock()
        self._recent: OrderedDict[int, File] = OrderedDict()
        self._open: WeakValueDictionary[int, File] = WeakValueDictionary()
        self.sizes: dict[int, int] = {}  # units of each file
        self._free: dict[int, list[tuple[int, int, bool]]] = {}  # (start, units, known to be zeros), in order
        self.keep_spare = False
        for name in disk.names():
            if found := _NAME.fullmatch(name):
                number = int(found[1])
                self.sizes[number] = self._opened(number).size // UNIT
                self._free[number] = []

    @property
    def open_files(self) -> int:
        """How many data files are open."""
        return len(self._open)

    def file(self, number: int) -> File:
        """The file of that number, or raise `FileGone`; OSError if it cannot be opened (now)."""
        with self.lock:
            if number not in self.sizes:
                raise FileGone(file_name(number))
            return self._opened(number)

    def _opened(self, number: int) -> File:
        file = self._open.get(number)
        if file is None:
            file = self._sparing(lambda: self._disk.open(file_name(number)))
        return self._remember(number, file)

    def _sparing(self, act: Callable[[], _T]) -> _T:
        """Do what takes a descriptor; if there is none, again without what is kept for the next use."""
        try:
            return act()
        except OSError as error:
            if not no_descriptor(error) or not self._recent:
                raise
        self.drop_recent()
        return act()

    def drop_recent(self) -> None:
        """Close what was only kept for the next use."""
        with self.lock:
            self._recent.clear()

    def view(self, extent: Extent) -> memoryview:
        """A read-only window onto a range."""
        file = self.file(extent.file)
        file.flush()
        return self._sparing(lambda: file.view(extent.offset, extent.size))

    def forget(self, extent: Extent) -> None:
        """The range is not read soon; nothing to do if its file is not open, or not there any more."""
        with self.lock:
            file = self._open.get(extent.file)
        if file is not None:
            file.forget(extent.offset, extent.size)

    def _remember(self, number: int, file: File) -> File:
        """Keep a file for its next use; the one that was not used for longest makes room."""
        self._open[number] = self._recent[number] = file
        self._recent.move_to_end(number)
        if len(self._recent) > MAX_OPEN_FILES:
            self._recent.popitem(last=False)
        return file

    def allocate(self, size: int) -> tuple[Extent, bool]:
        """A range of at least `size` bytes, and whether it surely holds zeros; OSError if there is none."""
        units = -(-size // UNIT)
        # First fit, from the oldest file on: blocks gather in the old files, and the newest ones become empty
        # and can be removed.
        with self.lock:
            for number in sorted(self._free):
                for place, (start, length, zeros) in enumerate(self._free[number]):
                    if length >= units:
                        rest = [(start + units, length - units, zeros)] if length > units else []
                        self._free[number][place : place + 1] = rest
                        return Extent(number, start, units), zeros
            return self._extend(units)

    def _extend(self, units: int) -> tuple[Extent, bool]:
        """A new file; a smaller one than we would like if that is all there is room for."""
        number = max(self.sizes, default=0) + 1
        wanted = min(LARGEST_FILE_UNITS, FIRST_FILE_UNITS << (2 * min(len(self.sizes), 3)))
        size = max(units, wanted)
        try:
            file = self._sparing(lambda: self._disk.create(file_name(number), size * UNIT))
        except OSError as error:
            if size == units or no_descriptor(error):
                raise
            size = units
            file = self._disk.create(file_name(number), size * UNIT)
        try:
            self._sparing(self._disk.sync_directory)
        except OSError:  # the next attempt creates this file again, and must not find it there
            file.close()
            self._disk.remove(file_name(number))
            raise
        self._remember(number, file)
        self.sizes[number] = size
        self._free[number] = []
        if size > units:
            self.release(Extent(number, units, size - units), zeros=True)
        return Extent(number, 0, units), True

    def release(self, extent: Extent, *, zeros: bool = False) -> None:
        """Make the range free, joined with its free neighbours."""
        with self.lock:
            ranges = self._free[extent.file]
            ranges.append((extent.start, extent.units, zeros))
            ranges.sort()
            joined: list[tuple[int, int, bool]] = []
            for start, units, clean in ranges:
                if joined and joined[-1][0] + joined[-1][1] == start:
                    before = joined.pop()
                    joined.append((before[0], before[1] + units, before[2] and clean))
                else:
                    joined.append((start, units, clean))
            self._free[extent.file] = joined

    def erase(self, extent: Extent) -> File:
        """Overwrite the header of a block that is to become free; the file has to be synced afterwards."""
        file = self.file(extent.file)
        write_all(file, [bytes(BLOCK_HEAD_SIZE)], extent.offset)
        return file

    def remove_empty_files(self) -> None:
        """Give files without a block back to the file system, all but one if `keep_spare` says so."""
        with self.lock:
            empty = [n for n, size in self.sizes.items() if size == sum(r[1] for r in self._free[n])]
            for number in empty[self.keep_spare :]:
                self._recent.pop(number, None)  # closed once no sync in flight refers to it any more
                self._open.pop(number, None)
                self._disk.remove(file_name(number))
                del self.sizes[number], self._free[number]
            if empty[self.keep_spare :]:
                self._sparing(self._disk.sync_directory)

    def free_bytes(self) -> int:
        """Bytes in free ranges."""
        with self.lock:
            return UNIT * sum(units for ranges in self._free.values() for _, units, _ in ranges)

    def total_bytes(self) -> int:
        """Bytes of all data files."""
        return UNIT * sum(self.sizes.values())

    def close(self) -> None:
        """Close the files."""
        with self.lock:
            for file in list(self._open.values()):
                file.close()
            self._recent.clear()

    def check_invariants(self) -> None:
        """Free ranges lie within their file, in order, and do not touch."""
        for number, ranges in self._free.items():
            end = -1
            for start, units, _ in ranges:
                assert start > end, (number, ranges)
                assert units > 0
                end = start + units
            assert end <= self.sizes[number], (number, ranges)


def file_name(number: int) -> str:
    """The data file of that number.

    >>> file_name(17)
    '00000017.wal'
    """
    return f"{number:08}.wal"

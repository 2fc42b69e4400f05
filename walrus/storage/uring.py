"""The io_uring backend: writes are queued in memory and go down together with the fsync that makes them
durable.

Under a schedule that syncs before it acknowledges, no caller is told about a write before its fsync is
done. So there is no reason to make one system call per write, nor to let a thread sleep in `fdatasync`: a
write is a copy into a buffer here, and a sync submits

    write ──► write ──► ... ──► fsync ──► fsync          one linked chain, one system call

(see `walrus.storage.io_uring` for what a chain is). Its one completion is the answer for all of it, and it
makes an eventfd readable, which is what an event loop waits for.

      pwrite()            start()                    completion            finish()
     ─────────► queue  ─────────────►  flight  ────────────────────►  landed ─────────►  error or none
               (one buffer fills while the other is in flight; they change roles at each start)

Three questions decide whether this is correct:

* *Reads.* Views are mappings of the file, which queued bytes have not reached. The engine calls `flush`
  before it reads a block it has written to; that writes the queued bytes at once, with `pwrite`, and writes
  those of a chain in flight a second time: the same bytes at the same place, so it does not matter which
  copy arrives last. That is so only if the chain writes no byte twice. One that does (the zeros of a new
  block, then what is appended to it) is waited for instead: its zeros could arrive after our copy of the
  record, and a reader would see them.
* *Order.* Two writes to the same bytes must land in the order they were made. Within a chain, links keep
  the order. Between a chain in flight and a direct write (`flush`, or a write too large for the buffer),
  overlapping ranges wait for the chain. Everything else may pass.
* *Process crash.* Queued bytes die with the process. That is allowed only while no caller has been told about
  them, so the queue is used only if the schedule acknowledges after the sync (`queueing=True`). Otherwise
  writes go down at once, and only the sync uses the ring.

Invariants
* At most one flight is in the air, and its buffer is not the one that fills.
* A write is in exactly one of: the queue, the flight, the operating system.
* A flight that stops early (a short write, a signal, no memory for a request) is finished by hand, with plain
  system calls, from the first link that did not succeed; only what those report is an error. Except for the
  error of an fsync, which is final: the kernel may have dropped the pages, so trying again would prove
  nothing.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from walrus.storage.backend import Buffer, File
from walrus.storage.interrupts import give_back
from walrus.storage.io_uring import Flags, IoUringUnavailable, Ring, address_of
from walrus.storage.posix import Descriptor, PosixDisk, PosixFile, sync_descriptor

BUFFER_BYTES = 1 << 20
"""Size of each of the two buffers. What does not fit is written at once: it gains nothing from waiting."""

RING_ENTRIES = 256
"""Links in a chain. A batch with more writes than that hands the first ones over directly."""

_FINISH_BY_HAND = {errno.EAGAIN, errno.EINTR, errno.ECANCELED, errno.ENOMEM}


@dataclass(slots=True)
class Queued:
    """One run of bytes for one place: `length` bytes at `start` of a buffer go to `offset` of the file."""

    file: UringFile
    offset: int
    start: int
    length: int

    def continues(self, file: UringFile, offset: int, start: int) -> bool:
        """Whether the next write begins where this run ends, in the file and in the buffer."""
        return self.file is file and self.offset + self.length == offset and self.start + self.length == start

    def overlaps(self, file: UringFile, offset: int, length: int) -> bool:
        """Whether the two write some byte of the same file."""
        return self.file is file and self.offset < offset + length and offset < self.offset + self.length


@dataclass(slots=True, eq=False)
class Flight:
    """One chain: what it writes, then what it syncs; and, once landed, what came of it."""

    writes: list[Queued]
    files: list[UringFile]
    buffer: mmap.mmap
    ring: Ring
    landed: bool = False
    abandoned: bool = False
    """The thread that was to wait for it was stopped by an exception: any other one may."""
    error: OSError | None = None
    visible: set[UringFile] = field(default_factory=set)
    """Files whose part of the chain has also been written directly, by a `flush`."""

    def uses(self, file: UringFile) -> bool:
        """Whether a link names the descriptor of `file`."""
        return file in self.files or any(write.file is file for write in self.writes)

    def completed(self, link: int, result: int) -> None:
        """The kernel's one answer: link `link` ended with `result`, and those after it did not start."""
        self.landed = True
        expected = self.writes[link].length if link < len(self.writes) else 0
        if result < 0 and -result not in _FINISH_BY_HAND:
            self.error = _error(-result)
        elif result != expected or link < len(self.writes) + len(self.files) - 1:
            self.finish_by_hand(link)

    def finish_by_hand(self, link: int) -> None:
        """Do the rest, from the first link that failed (writing a part of it again is idempotent)."""
        try:
            for write in self.writes[link:]:
                write_now(write, self.buffer)
            for file in self.files[max(0, link - len(self.writes)) :]:
                sync_descriptor(file.fd)
        except OSError as error:
            self.error = error


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def overlap(writes: list[Queued]) -> bool:
    """Whether some byte of the file is written by two of these."""
    ordered = sorted(writes, key=lambda write: write.offset)
    return any(one.offset + one.length > two.offset for one, two in itertools.pairwise(ordered))


def write_now(write: Queued, buffer: mmap.mmap) -> None:
    """Write one run with plain system calls, completing short writes."""
    done = 0
    with memoryview(buffer) as view:
        while done < write.length:
            left = view[write.start + done : write.start + write.length]
            taken = os.pwrite(write.file.fd, left, write.offset + done)
            left.release()
            if taken <= 0:
                raise OSError(errno.EIO, "the disk takes no more bytes and gives no reason", write.file.name)
            done += taken


class UringQueue:
    """What all files of a disk share: the buffers, the rings, the flight. Safe for any number of threads."""

    def __init__(self, *, queueing: bool) -> None:
        """Raises IoUringUnavailable with the reason. `queueing`: see *Process crash* above."""
        self.queueing = queueing
        self._eventfd: Descriptor | None = None
        self._lock = threading.RLock()
        self._landed = threading.Condition(self._lock)
        self._blocking = threading.RLock()
        # Two rings, so that a blocking sync does not make the event loop's eventfd readable.
        self._ring = Ring(RING_ENTRIES)
        self._loop_ring: Ring | None = None
        self._buffers = [mmap.mmap(-1, BUFFER_BYTES), mmap.mmap(-1, BUFFER_BYTES)]
        self._addresses = [address_of(buffer) for buffer in self._buffers]
        self._filling = 0
        self._end = 0
        self._writes: list[Queued] = []
        self._flight: Flight | None = None
        self._failure: OSError | None = None

    @property
    def eventfd(self) -> int:
        """What the event loop waits for; -1 before `open_eventfd` and once it is closed."""
        return -1 if self._eventfd is None else self._eventfd.number

    def append(self, file: UringFile, data: Buffer, offset: int) -> int:
        """Queue a write, or make it at once if it does not fit."""
        length = len(data)
        with self._lock:
            if not self.queueing or length > BUFFER_BYTES:
                return self._write_directly(file, data, offset)
            while self._end + length > BUFFER_BYTES:
                self._hand_over(None)
            start, end = self._end, self._end + length
            self._buffers[self._filling][start:end] = data
            self._end = end
            last = self._writes[-1] if self._writes else None
            if last is not None and last.continues(file, offset, start):
                last.length += length  # appends to one block are neighbours on disk and here: one link
            else:
                self._writes.append(Queued(file, offset, start, length))
            return length

    def _write_directly(self, file: UringFile, data: Buffer, offset: int) -> int:
        """Past the queue, once older writes to the same bytes are down."""
        while True:
            if self._in_the_air(file, offset, len(data)):
                self._land_flight()
            elif any(write.overlaps(file, offset, len(data)) for write in self._writes):
                self._hand_over(file)
            else:
                return os.pwrite(file.fd, data, offset)

    def _hand_over(self, file: UringFile | None) -> None:
        """Make what is queued (for one file, or all of it) with plain system calls, in order."""
        while any(
            self._in_the_air(write.file, write.offset, write.length) for write in self._queued_for(file)
        ):
            self._land_flight()  # may give up the lock, so look at the queue anew
        for write in self._queued_for(file):
            write_now(write, self._buffers[self._filling])
        self._writes = [write for write in self._writes if file is not None and write.file is not file]
        if not self._writes:
            self._end = 0

    def _queued_for(self, file: UringFile | None) -> list[Queued]:
        return [write for write in self._writes if file is None or write.file is file]

    def _in_the_air(self, file: UringFile, offset: int, length: int) -> bool:
        flight = self._flight
        return flight is not None and any(write.overlaps(file, offset, length) for write in flight.writes)

    def flush(self, file: UringFile) -> None:
        """Everything written to `file` shows in its views from now on."""
        with self._lock:
            flight = self._flight
            if flight is not None and file not in flight.visible:
                writes = [write for write in flight.writes if write.file is file]
                if overlap(writes):
                    while self._flight is flight:
                        self._land_flight()
                else:
                    for write in writes:
                        write_now(write, flight.buffer)
                    flight.visible.add(file)
            if self._writes:
                self._hand_over(file)

    def release(self, file: UringFile) -> None:
        """The descriptor is about to be closed, and links not yet started look theirs up when they start."""
        with self._lock:
            self.flush(file)
            while self._flight is not None and self._flight.uses(file):
                self._land_flight()

    def sync(self, file: UringFile) -> None:
        """Everything written to `file` is durable when this returns. Other threads go on writing
        meanwhile.
        """
        with self._blocking:
            try:
                with self._lock:
                    self._land_flight()
                    self._raise_failure()
                    flight = self._take_off([file], self._ring)
                if not flight.landed:
                    self._ring.wait()
                    with self._lock:
                        self._collect(flight)
                        self._landed.notify_all()
            except BaseException:
                self._abandon_flight()
                raise
        self._raise_failure()

    def _abandon_flight(self) -> None:
        """An exception from outside: this thread does not wait for what it has launched."""
        with self._lock:
            if self._flight is not None and self._flight.ring is self._ring:
                self._flight.abandoned = True
            self._landed.notify_all()

    def _cut(self, flight: Flight | None, error: BaseException) -> None:
        """The same, in the middle of bookkeeping: what becomes of the chain will not be known."""
        self._failure = self._failure or OSError(errno.EINTR, f"a sync was cut short by {error!r}")
        if flight is not None:
            flight.landed = True
        self._flight = None
        self._landed.notify_all()

    def interrupted(self) -> None:
        """See `Disk.interrupted`."""
        give_back(self._lock)
        give_back(self._blocking)

    def start(self, files: Sequence[UringFile]) -> Flight:
        """Begin a sync of `files`; the eventfd becomes readable when it is done."""
        with self._lock:
            assert self._loop_ring is not None, "no eventfd yet"
            while self._flight is not None:
                self._land_flight()
            self._raise_failure()
            return self._take_off(list(files), self._loop_ring)

    def finish(self, flight: Flight) -> None:
        """Take the result of `start`, waiting if it is too early for one."""
        with self._lock:
            self._land(flight)
        self._raise_failure()

    def _raise_failure(self) -> None:
        """Once a flight has failed, every sync fails: it cannot vouch for what was lost before it."""
        if self._failure is not None:
            raise _error(self._failure.errno or errno.EIO)

    def _take_off(self, files: list[UringFile], ring: Ring) -> Flight:
        """Submit the queue and a sync of `files` as one chain, and change buffers."""
        try:
            return self._launch(files, ring)
        except BaseException as error:
            self._cut(self._flight, error)
            raise

    def _launch(self, files: list[UringFile], ring: Ring) -> Flight:
        links = RING_ENTRIES - len(files)
        assert links >= 0 and self._flight is None
        if len(self._writes) > links:
            self._hand_over(None)
        buffer, base = self._buffers[self._filling], self._addresses[self._filling]
        flight = Flight(self._writes, files, buffer, ring)
        last = len(flight.writes) + len(files) - 1
        for link, write in enumerate(flight.writes):
            at, flags = base + write.start, 0 if link == last else Flags.LINK | Flags.SILENT
            ring.prepare_write(write.file.fd, at, write.length, write.offset, link, flags)
        for link, file in enumerate(files, len(flight.writes)):
            ring.prepare_fsync(file.fd, link, 0 if link == last else Flags.LINK | Flags.SILENT)
        self._writes, self._end, self._filling = [], 0, 1 - self._filling
        try:
            assert last >= 0 or ring is self._loop_ring
            if last >= 0:
                ring.submit()
                self._flight = flight
                return flight
        except OSError:  # the kernel has no memory for requests, so there is no one to send the chain to
            flight.finish_by_hand(0)
            self._failure = self._failure or flight.error
        flight.landed = True  # without a completion, so only this thread tells the event loop
        if ring is self._loop_ring:
            os.eventfd_write(self.eventfd, 1)
        return flight

    def _land(self, flight: Flight) -> None:
        """Wait until the flight is over; the lock is given up if another thread does the waiting."""
        if flight.ring is self._ring:
            self._landed.wait_for(lambda: flight.landed or flight.abandoned)
        if not flight.landed:
            flight.ring.wait()
            self._collect(flight)

    def _land_flight(self) -> None:
        """Land whatever is in the air. Another thread may have launched the next one when this returns."""
        if self._flight is not None:
            self._land(self._flight)

    def _collect(self, flight: Flight) -> None:
        try:
            completions = flight.ring.completions()
            assert len(completions) == 1, f"one chain, one completion: {completions}"
            flight.completed(*completions[0])
            self._failure = self._failure or flight.error
            self._flight = None
        except BaseException as error:
            self._cut(flight, error)
            raise

    def open_eventfd(self) -> None:
        """Prepare for `start`."""
        self._eventfd = Descriptor(os.eventfd(0, os.EFD_CLOEXEC))
        self._loop_ring = Ring(RING_ENTRIES)
        self._loop_ring.register_eventfd(self.eventfd)

    def close(self) -> None:
        """Land what is in the air and release everything. What is still queued is dropped: sync first."""
        with self._lock:
            while self._flight is not None:
                self._land_flight()
            self.abandon()

    def abandon(self) -> None:
        """Release everything, wait for nothing."""
        self._ring.close()
        if self._loop_ring is not None:
            self._loop_ring.close()
        if self._eventfd is not None:
            self._eventfd.close()
        self._writes = []

    def check_invariants(self) -> None:
        """Between any two calls."""
        flight = self._flight
        assert flight is None or flight.buffer is not self._buffers[self._filling]
        assert sum(write.length for write in self._writes) <= self._end <= BUFFER_BYTES
        assert flight is None or not flight.landed


class UringFile(PosixFile):
    """A file whose writes may be waiting in the queue."""

    def __init__(self, path: Path, fd: int, queue: UringQueue) -> None:
        super().__init__(path, fd)
        self._queue = queue

    @property
    def pwrite(self) -> Callable[[Buffer, int], int]:
        """Into the queue."""
        return self._append

    def _append(self, data: Buffer, offset: int) -> int:
        return self._queue.append(self, data, offset)

    def pwritev(self, parts: Sequence[Buffer], offset: int) -> int:
        """The parts end to end, as one link."""
        if not self._queue.queueing:
            return os.pwritev(self.fd, parts, offset)
        return self._queue.append(self, b"".join(parts), offset)

    def window(self, offset: int, length: int) -> memoryview | None:
        """None while writes are queued: one of them could land on top of what is stored after it."""
        return None if self._queue.queueing else super().window(offset, length)

    def pread(self, length: int, offset: int) -> bytes:
        """What was written, queued or not."""
        self.flush()
        return super().pread(length, offset)

    def flush(self) -> None:
        """Queued writes become visible in views."""
        self._queue.flush(self)

    def sync(self) -> None:
        """The queued writes and the fsync as one submission; waits for it."""
        self._queue.sync(self)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Hand over what is queued, then close."""
        if self.fd >= 0:
            self._queue.release(self)
        super().close()


class UringSync:
    """`AsyncSync` on the ring: what the cluster's group commit waits for, on an eventfd."""

    def __init__(self, queue: UringQueue) -> None:
        queue.open_eventfd()
        self._queue = queue
        self._flight: Flight | None = None

    def fileno(self) -> int:
        """The eventfd."""
        return self._queue.eventfd

    def start(self, files: Sequence[File]) -> None:
        """Submit and return at once."""
        assert self._flight is None, "one sync at a time"
        self._flight = self._queue.start([file for file in files if isinstance(file, UringFile)])

    def finish(self) -> None:
        """Reset the eventfd, raise the error if there was one."""
        flight, self._flight = self._flight, None
        assert flight is not None, "finish without start"
        try:
            self._queue.finish(flight)
        finally:
            # The kernel counts each chain once, but an instant after its completion can be seen: this blocks
            # for that instant if another thread landed the flight (`sync`, `close`).
            os.eventfd_read(self.fileno())

    def close(self) -> None:
        """Wait for one under way; its result has no caller any more but is raised all the same."""
        if self._flight is not None:
            self.finish()


class UringDisk(PosixDisk):
    """A directory on a real disk, written through io_uring."""

    backend = "io_uring"

    def __init__(self, directory: str | os.PathLike[str], *, queueing: bool = True) -> None:
        """`queueing=False` for schedules that acknowledge before they sync. Raises IoUringUnavailable."""
        self._queue = UringQueue(queueing=queueing)
        super().__init__(directory)

    def _file(self, path: Path, fd: int) -> UringFile:
        return UringFile(path, fd, self._queue)

    def boot_id(self) -> bytes:
        """None while writes are queued: then a process crash loses writes, as otherwise a power loss does."""
        return b"" if self._queue.queueing else super().boot_id()

    def async_sync(self) -> UringSync:
        """One per disk."""
        return UringSync(self._queue)

    def interrupted(self) -> None:
        """See `Disk.interrupted`."""
        self._queue.interrupted()

    def abandon(self) -> None:
        """See `Disk.abandon`: what is queued or in the air is the parent's."""
        self._queue.abandon()
        super().abandon()

    def close(self) -> None:
        """Release the rings, then the lock."""
        self._queue.close()
        super().close()


__all__ = ["IoUringUnavailable", "UringDisk", "UringFile", "UringSync"]

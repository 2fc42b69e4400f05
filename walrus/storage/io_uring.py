"""io_uring in one sitting: raw system calls through `ctypes`, no C extension.

A classic system call is a phone call: the caller waits on the line until the kernel has an answer, and
`fdatasync` has its answer after a tenth of a millisecond at best. io_uring (Linux 5.1, 2019) is a pair of
letter boxes instead, two ring buffers in memory that the process and the kernel share:

      process                                         kernel
      -------                                         ------
      fill SQE ──► tail ┌──────────────────┐ head ──► takes requests
                        │ submission queue │
                        └──────────────────┘
      reads    ◄── head ┌──────────────────┐ tail ◄── posts results
                        │ completion queue │
                        └──────────────────┘

* a *submission queue entry* (SQE, 64 bytes) is a request: an opcode, a file descriptor, an offset, the
  address and length of a buffer, flags, and a `user_data` number that comes back with the result;
* a *completion queue entry* (CQE, 16 bytes) carries that number and a result: what the system call would have
  returned, or a negative errno.

Each side owns one end of each ring. Positions only ever grow (modulo 2**32); `position & mask` is the slot.
The three system calls are `io_uring_setup` (make the rings), `io_uring_enter` (here is new work; and, if
asked, wait for results) and `io_uring_register` (make something known to the ring once, here an eventfd).

Why a log wants this. Durable appends are `write`, then `fsync`, and the second must not start before the
first has succeeded. `IOSQE_IO_LINK` says exactly that: the next entry starts when this one has succeeded
completely; if it fails, *or is short*, everything after it in the chain is cancelled. So a batch and its
fsync are one submission, and the kernel does both while the event loop serves other events. With
`IOSQE_CQE_SKIP_SUCCESS` (Linux 5.17) the links before the last stay silent unless they fail: one chain, one
completion, which is either the fsync's answer or the one error that stopped it. The completion also adds
one to an `eventfd`, and an eventfd is something that `select`, `epoll` and asyncio can wait for.

Invariants
* A buffer handed to `prepare_write` stays alive and unchanged until its completion has been taken: the
  kernel holds an address, not a reference. Nothing in this module can check that; `uring.py` ensures it by
  owning its buffers.
* A chain is submitted by one `submit`: links do not reach across submissions. `room` says how many fit.
* The completion queue has twice the slots of the submission queue and the owner has at most one chain in
  flight, so it cannot overflow.

Memory order. The kernel reads our tail inside `io_uring_enter`, in this thread, so program order suffices.
The kernel's tail is read after a system call (`io_uring_enter`, or the read of the eventfd) has told us of
the completion, and a system call orders memory on every machine Linux runs on. That is why no barrier
appears below, and why Python never polls the completion ring.

Left out: kernel-side polling (`SQPOLL`), registered files and buffers, reads, cancellation. They save
fractions of a microsecond, and Python would not notice.

Reference: Jens Axboe, "Efficient IO with io_uring" (2019); `io_uring_setup(2)`, `io_uring_enter(2)`,
`io_uring_register(2)`; the layouts are those of `<linux/io_uring.h>`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys
from typing import NamedTuple

from walrus.storage.posix import Descriptor

# Every architecture that got io_uring after 2019 numbers the three calls alike (only alpha differs).
SYS_IO_URING_SETUP, SYS_IO_URING_ENTER, SYS_IO_URING_REGISTER = 425, 426, 427

# Where in the ring's file descriptor mmap(2) finds the two areas.
OFFSET_RINGS, OFFSET_SQES = 0x0, 0x10000000

OP_FSYNC, OP_WRITE = 3, 23
FSYNC_DATASYNC = 1
ENTER_GETEVENTS = 1
REGISTER_EVENTFD = 4

FEATURE_SINGLE_MMAP = 1 << 0  # Linux 5.4: one mapping holds both rings
FEATURE_CQE_SKIP = 1 << 11  # Linux 5.17

_NEEDED = "Linux 5.17 or later is needed"

DISABLE_VARIABLE = "WALRUS_DISABLE_IO_URING"


class IoUringUnavailable(OSError):
    """This process cannot have a ring; the message says why (`errno` is what the kernel said)."""


class Flags:
    """The `flags` byte of a submission queue entry."""

    LINK = 1 << 2
    """The next entry starts only after this one has succeeded completely."""
    SILENT = 1 << 6
    """Post no completion on success (`IOSQE_CQE_SKIP_SUCCESS`). A failure is always posted."""


class Completion(NamedTuple):
    """One completion queue entry: whose it is, and what the system call would have returned."""

    user_data: int
    result: int


#: struct io_uring_params: sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd,
#: three reserved words; then where the fields of each ring lie within the mapping, ten words a ring.
_PARAMS = struct.Struct("<7I12x10I10I")

#: struct io_uring_sqe: opcode, flags, ioprio, fd, off, addr, len, rw_flags / fsync_flags, user_data,
#: and 24 bytes we have no use for, which have to be zero.
_SQE = struct.Struct("<BBHiQQIIQ24x")

#: struct io_uring_cqe: user_data, res, flags.
_CQE = struct.Struct("<QiI")

_WRAP = 0xFFFFFFFF


def _load_syscall() -> ctypes._NamedFuncPointer:
    """libc's `syscall(2)`. `CDLL` releases the interpreter lock around a call, as a wait has to."""
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    function.argtypes = [ctypes.c_long] * 7
    return function


def unavailable_because() -> str | None:
    """Why there is no io_uring for this process, or None if there is; asks the kernel by making a small ring.

    >>> reason = unavailable_because()
    >>> reason is None or isinstance(reason, str)
    True
    """
    try:
        Ring(entries=2).close()
    except IoUringUnavailable as error:
        return error.strerror
    return None


def _explain(code: int) -> str:
    """What an error of `io_uring_setup` means to the reader of the message."""
    reasons = {
        errno.ENOSYS: f"this kernel has no io_uring ({_NEEDED})",
        errno.EPERM: "not permitted here (a container's seccomp filter, or kernel.io_uring_disabled)",
        errno.EACCES: "not permitted here (a security module refused it)",
        errno.ENOMEM: "the ring does not fit under the locked-memory limit (ulimit -l)",
        errno.EMFILE: "no file descriptor is left for the ring (ulimit -n)",
        errno.ENFILE: "no file descriptor is left for the ring in the whole system",
    }
    return reasons.get(code, f"io_uring_setup failed: {os.strerror(code)}")


class Ring:
    """One io_uring: prepare entries, submit them together, take completions. For one thread at a time.

    A write and its fsync as one chain (the buffer is a mapping, because its address must stand still):

    >>> import tempfile
    >>> def demonstrate() -> list[Completion]:
    ...     page = mmap.mmap(-1, 4096)
    ...     page[:5] = b"hello"
    ...     with tempfile.TemporaryFile() as file, Ring(entries=8) as ring:
    ...         ring.prepare_write(file.fileno(), address_of(page), 5, 0, 1, Flags.LINK | Flags.SILENT)
    ...         ring.prepare_fsync(file.fileno(), 2)
    ...         ring.submit(wait_for=1)
    ...         return ring.completions()
    >>> demonstrate() if unavailable_because() is None else [Completion(user_data=2, result=0)]
    [Completion(user_data=2, result=0)]
    """

    __slots__ = (
        "_cq_head",
        "_cq_mask",
        "_cq_tail",
        "_cqes_offset",
        "_owned",
        "_prepared",
        "_rings",
        "_sq_entries",
        "_sq_mask",
        "_sq_tail",
        "_sqes",
        "_syscall",
        "_words",
        "fd",
    )

    def __init__(self, entries: int = 64) -> None:
        """Make rings with at least `entries` submission slots. Raises IoUringUnavailable with the reason."""
        assert 1 <= entries <= 4096
        if not sys.platform.startswith("linux"):
            raise IoUringUnavailable(errno.ENOSYS, "io_uring exists on Linux only")
        if os.environ.get(DISABLE_VARIABLE, "") not in ("", "0"):
            raise IoUringUnavailable(errno.EPERM, f"{DISABLE_VARIABLE} is set")
        self._syscall = _load_syscall()
        params = bytearray(_PARAMS.size)
        view = (ctypes.c_char * len(params)).from_buffer(params)
        self.fd = self._syscall(SYS_IO_URING_SETUP, entries, ctypes.addressof(view), 0, 0, 0, 0)
        if self.fd < 0:
            code = ctypes.get_errno()
            raise IoUringUnavailable(code, _explain(code))
        self._owned = Descriptor(self.fd)
        try:
            self._map(_PARAMS.unpack(params))
        except BaseException:
            self._owned.close()
            raise

    def _map(self, params: tuple[int, ...]) -> None:
        """Map what the kernel made: the area with both rings, and the array of submission entries."""
        sq_entries, cq_entries, _, _, _, features, _ = params[:7]
        _sq_head, sq_tail, sq_mask, _, _sq_flags, _dropped, sq_array = params[7:14]
        cq_head, cq_tail, cq_mask, _, _overflow, cqes = params[17:23]
        if not features & FEATURE_SINGLE_MMAP or not features & FEATURE_CQE_SKIP:
            raise IoUringUnavailable(errno.ENOSYS, f"this kernel's io_uring is too old ({_NEEDED})")
        size = max(sq_array + sq_entries * 4, cqes + cq_entries * _CQE.size)
        self._rings = mmap.mmap(self.fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=OFFSET_RINGS)
        self._sqes = mmap.mmap(
            self.fd, sq_entries * _SQE.size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=OFFSET_SQES
        )
        # All ring fields are aligned 32-bit words, so one view of words reads and writes each in one access.
        self._words = memoryview(self._rings)[: size & ~3].cast("I")
        self._sq_tail, self._cq_head, self._cq_tail = sq_tail >> 2, cq_head >> 2, cq_tail >> 2
        self._sq_mask, self._cq_mask = self._words[sq_mask >> 2], self._words[cq_mask >> 2]
        self._sq_entries, self._cqes_offset, self._prepared = sq_entries, cqes, 0
        # The ring proper holds indices into the entry array, so that entries may be submitted out of order.
        # We never do: slot i names entry i, forever.
        for slot in range(sq_entries):
            self._words[(sq_array >> 2) + slot] = slot

    @property
    def room(self) -> int:
        """How many more entries can be prepared before `submit`."""
        return self._sq_entries - self._prepared

    def prepare_write(
        self, fd: int, address: int, length: int, offset: int, user_data: int, flags: int = 0
    ) -> None:
        """Queue `pwrite(fd, <length bytes at address>, offset)`. Nothing happens before `submit`."""
        at = self._next_slot()
        _SQE.pack_into(self._sqes, at, OP_WRITE, flags, 0, fd, offset, address, length, 0, user_data)

    def prepare_fsync(self, fd: int, user_data: int, flags: int = 0) -> None:
        """Queue `fdatasync(fd)`: the data, and the metadata needed to read it back."""
        at = self._next_slot()
        _SQE.pack_into(self._sqes, at, OP_FSYNC, flags, 0, fd, 0, 0, 0, FSYNC_DATASYNC, user_data)

    def _next_slot(self) -> int:
        """Where in the array the next entry goes. It is ours until `submit` moves the tail past it."""
        assert self._prepared < self._sq_entries, "submission queue full: submit first"
        slot = (self._words[self._sq_tail] + self._prepared) & self._sq_mask
        self._prepared += 1
        return slot * _SQE.size

    def submit(self, wait_for: int = 0) -> None:
        """Hand everything prepared to the kernel; with `wait_for`, return only after that many completions.

        Raises OSError if the kernel takes none of it; then nothing was started and the queue is empty again.
        """
        count, self._prepared = self._prepared, 0
        before = self._words[self._sq_tail]
        self._words[self._sq_tail] = (before + count) & _WRAP
        taken = self._enter(count, wait_for)
        if taken != count:
            # Only possible when the kernel runs out of memory for requests. It has consumed `taken` entries;
            # take the rest back, or a later submission would send them.
            self._words[self._sq_tail] = (before + max(taken, 0)) & _WRAP
            raise OSError(errno.EAGAIN, f"io_uring took {taken} of {count} entries")
        if wait_for:
            self.wait(wait_for)  # a signal may have cut the wait short after the entries were taken

    def wait(self, count: int = 1) -> None:
        """Return when at least `count` completions are there to be taken."""
        words = self._words
        while (words[self._cq_tail] - words[self._cq_head]) & _WRAP < count:
            self._enter(0, count)

    def _enter(self, count: int, wait_for: int) -> int:
        """`io_uring_enter`, again when a signal interrupted it. The number of entries the kernel took."""
        flags = ENTER_GETEVENTS if wait_for else 0
        while True:
            taken: int = self._syscall(SYS_IO_URING_ENTER, self.fd, count, wait_for, flags, 0, 0)
            if taken >= 0:
                return taken
            code = ctypes.get_errno()
            if code != errno.EINTR:
                raise OSError(code, f"io_uring_enter: {os.strerror(code)}")
            # Entries are consumed before the wait starts, and then the call reports them instead of EINTR:
            # so an EINTR means that nothing was taken, and repeating repeats nothing.

    def completions(self) -> list[Completion]:
        """Take all completions that are there, oldest first."""
        words, found = self._words, []
        head, tail = words[self._cq_head], words[self._cq_tail]
        while head != tail:
            at = self._cqes_offset + (head & self._cq_mask) * _CQE.size
            user_data, result, _flags = _CQE.unpack_from(self._rings, at)
            found.append(Completion(user_data, result))
            head = (head + 1) & _WRAP
        words[self._cq_head] = head  # from here on the kernel may overwrite those slots
        return found

    def register_eventfd(self, eventfd: int) -> None:
        """From now on the kernel adds one to `eventfd` for every completion it posts."""
        argument = ctypes.c_int32(eventfd)
        address = ctypes.addressof(argument)
        if self._syscall(SYS_IO_URING_REGISTER, self.fd, REGISTER_EVENTFD, address, 1, 0, 0) < 0:
            code = ctypes.get_errno()
            raise IoUringUnavailable(code, f"io_uring_register(eventfd): {os.strerror(code)}")

    def close(self) -> None:
        """Give the rings back. The kernel finishes or cancels what is in flight: wait for it first.

        Called again, also after an exception cut it short, it does the rest.
        """
        self.fd = -1
        self._words.release()
        self._rings.close()
        self._sqes.close()
        self._owned.close()

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def address_of(buffer: mmap.mmap) -> int:
    """Where a mapping lies in memory. It stays there until it is closed, which is what the kernel needs.

    The exporting view is dropped at once, so the mapping can still be closed.
    """
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))

"""Group commit: one sync for all the threads that wait for the disk.

* `GroupCommit` is for threads under `sync_each`. A thread that comes while a sync is running joins the next
  one: it covers everything that was appended before it began, so sixteen threads need two syncs between
  them rather than sixteen. One of the waiting threads leads the next round; there is no extra thread.
* `Flusher` is the background thread of `FsyncSchedule.milliseconds`.
* `Syncer` is for event loops: one sync at a time, announced by a descriptor that becomes readable.

None of them swallows an error: the engine fails (takes no more writes), and every waiting thread is told.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from io import FileIO
from queue import SimpleQueue
from threading import Event, Lock, RLock, Thread, get_ident
from typing import NamedTuple, TypeAlias

from walrus.storage.backend import AsyncSync, File
from walrus.storage.errors import EngineReentered, StorageError
from walrus.storage.interrupts import give_back, refuse_reentry
from walrus.storage.log import Mark
from walrus.storage.mutex import LOST
from walrus.storage.space import Extent


class _Round:
    """One sync and the threads that wait for it."""

    __slots__ = ("done", "error", "over", "waiting")

    def __init__(self) -> None:
        self.waiting: list[tuple[Lock, int]] = []  # gate and thread: released when it is done, or is to lead
        self.done = False
        self.over = False  # done, failed, or its leader was cut
        self.error: StorageError | None = None

    def ring(self) -> None:
        """The round is over: wake one of the others that wait for it, which wakes the next.

        Woken all at once they would wait a second time, for the interpreter that only one of them can have.
        """
        if not self.waiting:  # as after each append of a lone thread, which an exception would cost 3 us
            return
        me = get_ident()
        with contextlib.suppress(IndexError):  # another thread may ring at the same time
            gate, thread = self.waiting.pop(0)
            if thread == me:  # led it, or was not rung and looked by itself
                gate, thread = self.waiting.pop(0)
            if gate.locked():
                gate.release()


class GroupCommit:
    """`commit()` returns when everything appended before the call is durable.

    The thread that leads may be cut by an exception from outside (interrupts.py), and so may one that
    waits. Either leaves: the round of a leader that was cut is neither done nor failed, so the threads that
    waited for it ask again; and leadership, which has an owner, is passed on by `release`.
    """

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._mutex = RLock()
        self._leader = 0  # the thread that syncs; 0: none
        self._current = _Round()  # what it syncs for
        self._next = _Round()

    def commit(self) -> None:
        """Wait for a sync that began after this call; raises its error."""
        refuse_reentry(self._mutex)
        if self._leader == get_ident():
            raise EngineReentered  # it would wait for the sync that this very thread is to make
        gate = Lock()
        try:
            while not (joined := self._join(gate)).done:
                if joined.error is not None:
                    raise joined.error
        except BaseException:
            self._leave(gate)
            raise

    def _join(self, gate: Lock) -> _Round:
        """Wait for the next round, or lead it; it comes back done, failed, or cut short."""
        with self._mutex:
            joined, leads = self._next, not self._leader
            if leads:
                self._leader = get_ident()
            else:
                gate.acquire(blocking=False)
                joined.waiting.append((gate, get_ident()))
        try:
            while not leads and not joined.over:
                gate.acquire(timeout=LOST)  # a thread that is to release it may be cut before it does
                leads = self._leader == get_ident()
        finally:
            if joined.over:
                joined.ring()
        if leads:
            self._lead(joined)
        return joined

    def _lead(self, joined: _Round) -> None:
        with self._mutex:  # a call that comes from here on may have appended too late for this sync
            self._current, self._next = joined, _Round()
        try:
            self._sync()
            joined.done = True
        except StorageError as error:
            joined.error = error
        finally:
            self.release()

    def release(self) -> None:
        """If this thread leads, it does so no more: tell those of its round, let one of the next lead."""
        with self._mutex:
            if self._leader != get_ident():
                return
            current, following = self._current, self._next
            current.over = True
            current.ring()
            self._current = _Round()
            self._leader = following.waiting[0][1] if following.waiting else 0
            if following.waiting:
                following.waiting[0][0].release()

    def _leave(self, gate: Lock) -> None:
        """An exception ends a call: nothing is waited for any more, and nothing is led."""
        give_back(self._mutex)
        with self._mutex:
            for each in (self._current, self._next):
                each.waiting[:] = [other for other in each.waiting if other[0] is not gate]
        self.release()


class Flusher:
    """Syncs every `interval` seconds on a thread of its own, until a sync fails or it is stopped."""

    def __init__(
        self, sync: Callable[[], None], interval: float, died: Callable[[BaseException], None]
    ) -> None:
        self._sync = sync
        self._interval = interval
        self._died = died
        self._stop = Event()
        self._thread = Thread(target=self._run, name="walrus-flusher", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._interval):
                self._sync()
        except BaseException as error:  # noqa: BLE001 - whatever it was, the next caller must hear of it
            self._died(error)

    def stop(self) -> None:
        """Stop, after the sync that may be running."""
        self._stop.set()
        self._thread.join()


class Plan(NamedTuple):
    """What one sync covers."""

    number: int
    files: list[File]
    marks: list[Mark]
    retired: list[Extent]  # blocks whose end the journal will have on disk
    erased: list[Extent]  # blocks whose erasure will be on disk


Finish: TypeAlias = Callable[[Plan, OSError | None], None]


class ThreadSync:
    """`AsyncSync` for disks that only have blocking calls: a worker thread, and a pipe to say that it is
    done."""

    def __init__(self) -> None:
        done, announce = os.pipe()
        os.set_blocking(announce, False)
        self._done, self._announce = FileIO(done), FileIO(announce, "w")  # each closes once
        self._work: SimpleQueue[Sequence[File] | None] = SimpleQueue()
        self._error: OSError | None = None
        self._thread = Thread(target=self._run, name="walrus-sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (files := self._work.get()) is not None:
            try:
                for file in files:
                    file.sync()
            except OSError as error:
                self._error = error
            self._announce.write(b"!")

    def fileno(self) -> int:
        """The reading end of the pipe."""
        return self._done.fileno()

    def start(self, files: Sequence[File]) -> None:
        """Hand the files to the worker."""
        self._work.put(files)

    def finish(self) -> None:
        """Wait for the worker's byte; raise what it met."""
        self._done.read(1)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def abandon(self) -> None:
        """In a forked copy: there is no worker."""
        self._done.close()
        self._announce.close()

    def close(self) -> None:
        """End the worker."""
        self._work.put(None)
        self._thread.join()
        self._done.close()
        self._announce.close()


class Syncer:
    """At most one sync in flight, without blocking: `start()`, wait until `fileno()` is readable,
    `finish()`."""

    def __init__(
        self,
        begin: Callable[[], Plan],
        finish: Finish,
        disk_sync: AsyncSync | None,
        check: Callable[[], None],
        interrupted: Callable[[BaseException], None],
    ) -> None:
        """`check` raises in a forked copy, whose descriptors and sync are those of its parent.

        `interrupted` gives back what an exception from outside has left behind.
        """
        self._begin, self._finish, self._check, self._interrupted = begin, finish, check, interrupted
        self._disk_sync: AsyncSync = ThreadSync() if disk_sync is None else disk_sync
        self._plan: Plan | None = None

    def fileno(self) -> int:
        """A descriptor that becomes readable when the sync that was started is done."""
        return self._disk_sync.fileno()

    def start(self) -> None:
        """Begin to make everything written before this call durable. Not while one is in flight."""
        self._check()
        assert self._plan is None, "finish() the sync in flight first"
        try:
            self._plan = self._begin()
            self._disk_sync.start(self._plan.files)
        except StorageError:
            raise
        except BaseException as error:
            self._cut(error)
            raise

    def finish(self) -> None:
        """Take the result of the sync, waiting for it if need be; raises `EngineFailed` if it failed."""
        self._check()
        assert self._plan is not None, "start() a sync first"
        try:
            failure = self._outcome()
            plan, self._plan = self._plan, None
            self._finish(plan, failure)
        except StorageError:
            raise
        except BaseException as error:
            self._cut(error)
            raise

    def _outcome(self) -> OSError | None:
        try:
            self._disk_sync.finish()
        except OSError as error:
            return error
        return None

    def _cut(self, error: BaseException) -> None:
        """An exception from outside: whether the sync succeeds is not known any more: it counts as failed."""
        self._interrupted(error)
        plan, self._plan = self._plan, None
        if plan is not None:
            with contextlib.suppress(StorageError):  # the engine says so to every later caller
                self._finish(plan, OSError(errno.EINTR, f"a sync was cut short by {error!r}"))

    def abandon(self) -> None:
        """In a forked copy: let go of the descriptors; a sync in flight is the parent's."""
        self._plan = None
        if isinstance(self._disk_sync, ThreadSync):
            self._disk_sync.abandon()

    def close(self) -> None:
        """Wait for the sync in flight, if any, and let go of the descriptor."""
        if self._plan is not None:
            with contextlib.suppress(StorageError):  # the engine has failed and says so to every later caller
                self.finish()
        self._disk_sync.close()

"""Who waits for the disk, and how few times it is asked.

* `GroupCommit` is for threads under `sync_each`. Whoever comes while a sync is running joins the next one: it
  covers everything that was appended before it began, so sixteen threads need two syncs between them rather
  than sixteen. One of those who wait leads the next round; there is no extra thread.
* `Flusher` is the background thread of `FsyncSchedule.milliseconds`.
* `Syncer` is for event loops: one sync at a time, announced by a descriptor that becomes readable.

None of them swallows an error: the engine fails (takes no more writes), and everybody who waited is told.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import NamedTuple, TypeAlias

from walrus.storage.backend import AsyncSync, File
from walrus.storage.errors import StorageError
from walrus.storage.log import Mark
from walrus.storage.space import Extent


class _Round:
    """One sync and those who wait for it."""

    __slots__ = ("error", "leader", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Lock] = []  # each is released once: its owner is done, or is to lead
        self.leader: Lock | None = None
        self.error: StorageError | None = None


class GroupCommit:
    """`commit()` returns when everything appended before the call is durable."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._mutex = Lock()
        self._running = False
        self._next = _Round()

    def commit(self) -> None:
        """Wait for a sync that began after this call; raises its error."""
        gate = None
        with self._mutex:
            current = self._next
            if self._running:
                gate = Lock()
                gate.acquire()
                current.waiting.append(gate)
            else:
                self._running = True
        if gate is not None:
            gate.acquire()
        if gate is None or current.leader is gate:
            self._lead(current)
        if current.error is not None:
            raise current.error

    def _lead(self, current: _Round) -> None:
        with self._mutex:
            self._next = _Round()  # whoever comes from here on may have appended too late for this sync
        try:
            self._sync()
        except StorageError as error:
            current.error = error
        except BaseException as error:
            current.error = StorageError(f"the thread that synced for this one was stopped by {error!r}")
            raise
        finally:
            for gate in current.waiting:
                if gate is not current.leader:
                    gate.release()
            self._promote()

    def _promote(self) -> None:
        """Let one of those who wait for the next round lead it."""
        with self._mutex:
            following = self._next
            if following.waiting:
                following.leader = following.waiting[0]
                following.leader.release()
            else:
                self._running = False


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
        self._done, self._announce = os.pipe()
        os.set_blocking(self._announce, False)
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
            os.write(self._announce, b"!")

    def fileno(self) -> int:
        """The reading end of the pipe."""
        return self._done

    def start(self, files: Sequence[File]) -> None:
        """Hand the files to the worker."""
        self._work.put(files)

    def finish(self) -> None:
        """Wait for the worker's byte; raise what it met."""
        os.read(self._done, 1)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def abandon(self) -> None:
        """In a forked copy: there is no worker."""
        os.close(self._done)
        os.close(self._announce)

    def close(self) -> None:
        """End the worker."""
        self._work.put(None)
        self._thread.join()
        os.close(self._done)
        os.close(self._announce)


class Syncer:
    """At most one sync in flight, without blocking: `start()`, wait until `fileno()` is readable,
    `finish()`."""

    def __init__(
        self,
        begin: Callable[[], Plan],
        finish: Finish,
        disk_sync: AsyncSync | None,
        check: Callable[[], None],
    ) -> None:
        """`check` raises in a forked copy, whose descriptors and sync are those of its parent."""
        self._begin, self._finish, self._check = begin, finish, check
        self._disk_sync: AsyncSync = ThreadSync() if disk_sync is None else disk_sync
        self._plan: Plan | None = None

    def fileno(self) -> int:
        """A descriptor that becomes readable when the sync that was started is done."""
        return self._disk_sync.fileno()

    def start(self) -> None:
        """Begin to make everything written before this call durable. Not while one is in flight."""
        self._check()
        assert self._plan is None, "finish() the sync in flight first"
        self._plan = self._begin()
        self._disk_sync.start(self._plan.files)

    def finish(self) -> None:
        """Take the result of the sync, waiting for it if need be; raises `EngineFailed` if it failed."""
        self._check()
        assert self._plan is not None, "start() a sync first"
        plan, self._plan, failure = self._plan, None, None
        try:
            self._disk_sync.finish()
        except OSError as error:
            failure = error
        self._finish(plan, failure)

    def abandon(self) -> None:
        """In a forked copy: let go of the descriptors, whoever the sync in flight belongs to."""
        self._plan = None
        if isinstance(self._disk_sync, ThreadSync):
            self._disk_sync.abandon()

    def close(self) -> None:
        """Wait for the sync in flight, if any, and let go of the descriptor."""
        if self._plan is not None:
            with contextlib.suppress(StorageError):  # the engine has failed and says so to every later caller
                self.finish()
        self._disk_sync.close()

"""Group commit in an event loop: at most one sync in flight per engine, shared by all waiting writes.

    turn       1: write 1..3    2: write 4..9   3: write 10      sync of 1..3 ends
               start sync(3) ───────────────────────────────────► on_durable(3), start sync(10)

A sync covers the writes before its start. Later writes wait for the next sync, which starts in the turn in
which this one ends. So the cost of a sync is shared by all writes that wait for it, and the number of syncs
per second depends on the disk, not on the number of clients.

The engine syncs outside the event loop (in a thread, or by io_uring) and announces the end on a descriptor
(`walrus.storage.syncing.Syncer`).

Invariants:

* at most one sync at a time per engine;
* `on_durable(n)` is called only after the success of a sync that began after write `n`;
* no sync follows one that failed: the kernel may have dropped the dirty pages that it could not write, and
  another fsync would report success without them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from walrus.histogram import Histogram
from walrus.storage.errors import StorageError

monotonic = time.monotonic


class EngineSyncer(Protocol):
    """Syncs an engine without blocking; implemented by `walrus.storage.syncing.Syncer`."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when the sync has ended."""

    def start(self) -> None:
        """Begin to sync everything written so far, without waiting."""

    def finish(self) -> None:
        """Take the result, waiting for it if need be. Raises StorageError or OSError if the sync failed."""


class AsyncGroupCommit:
    """Syncs one engine and reports the number of the last write that each sync covered."""

    def __init__(
        self,
        syncer: EngineSyncer,
        written: Callable[[], int],
        on_durable: Callable[[int], None],
        on_failure: Callable[[StorageError | OSError], None],
    ) -> None:
        self._syncer = syncer
        self._written = written
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._durable = 0
        self._in_flight: int | None = None  # the last write that the sync in flight covers
        self._began = 0.0
        self.took = Histogram()
        """How long syncs took, in seconds, from their start until the event loop learnt of their end."""
        asyncio.get_running_loop().add_reader(syncer.fileno(), self._on_sync_finished)

    @property
    def under_way(self) -> bool:
        """Whether a sync has begun and not ended."""
        return self._in_flight is not None

    def start_if_due(self) -> None:
        """Start a sync if there are writes that are not durable yet and no sync is in flight."""
        if self._in_flight is None and (written := self._written()) > self._durable:
            self._in_flight, self._began = written, monotonic()
            self._syncer.start()

    def _on_sync_finished(self) -> None:
        """The descriptor is readable: the first step on the way back of an acknowledgement."""
        assert self._in_flight is not None, "a sync ended that was not started"
        try:
            self._syncer.finish()
        except (StorageError, OSError) as error:
            self._on_failure(error)  # `_in_flight` stays set: no other sync is started
            return
        self.took.observe(monotonic() - self._began)
        self._durable, self._in_flight = self._in_flight, None
        self._on_durable(self._durable)

    def close(self) -> None:
        """Start no more syncs; wait for the one in flight."""
        asyncio.get_running_loop().remove_reader(self._syncer.fileno())
        if self._in_flight is not None:
            self._syncer.finish()
            self._in_flight = None

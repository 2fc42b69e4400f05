"""Group commit from an event loop: at most one sync in flight per engine, shared by all that wait for it.

    turn       1: write 1..3    2: write 4..9   3: write 10      sync of 1..3 ends
               start sync(3) ───────────────────────────────────► on_durable(3), start sync(10)

A sync covers what was written before it began; whatever is written meanwhile waits for the next one, which
starts in the turn in which this one ends. So a sync costs the same however many writes share it, and the
number of syncs per second is bounded by the disk, not by the clients.

The engine syncs off the event loop (a thread, or the io_uring) and announces the end on a descriptor
(`walrus.storage.syncing.Syncer`).

Invariants: one sync at a time per engine; `on_durable(n)` is called only after a sync that began after write
`n` has succeeded; a sync that failed is the last one, for the kernel may have dropped the dirty pages that it
failed to write, and a second fsync would report success without them.
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
    """What one sync of an engine needs; `walrus.storage.syncing.Syncer` is the real one."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when the sync has ended."""

    def start(self) -> None:
        """Begin to sync everything written so far, without waiting."""

    def finish(self) -> None:
        """Take the result. Raises StorageError or OSError if the sync failed."""


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
        self._in_flight: int | None = None  # the last write that the sync under way covers
        self._began = 0.0
        self.took = Histogram()
        """How long syncs took, from their start to when the event loop learnt of their end."""
        asyncio.get_running_loop().add_reader(syncer.fileno(), self._on_sync_finished)

    @property
    def under_way(self) -> bool:
        """Whether a sync has begun and not ended."""
        return self._in_flight is not None

    def start_if_due(self) -> None:
        """Start a sync of what is not durable yet, unless one is under way."""
        if self._in_flight is None and (written := self._written()) > self._durable:
            self._in_flight, self._began = written, monotonic()
            self._syncer.start()

    def _on_sync_finished(self) -> None:
        """First step on the way back of an acknowledgement: the descriptor is readable."""
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
        """Start no more syncs; wait for the one under way."""
        asyncio.get_running_loop().remove_reader(self._syncer.fileno())
        if self._in_flight is not None:
            self._syncer.finish()
            self._in_flight = None

"""What is written, and what of it is durable: the logic's view of one storage engine.

The logic writes at once and learns of durability later. Every write gets the next number, and a sync that
was started after write number `n` makes all writes up to `n` durable together: one counter is all the
bookkeeping that group commit needs. A component that must not reply before its write is durable passes a
callback (`then`); callbacks run in the order of the writes.

    write                       `written`   `durable`   waits
    entries of t/1, then = A    1           0           (1, A)
    a note, no then             2           0           (1, A)
    barrier(B)                  2           0           (1, A) (2, B)
    on_durable(1)               2           1           (2, B)           A has run
    on_durable(2)               2           2                            B has run

The order matters to the recipient. A replica that answers two frames answers the earlier one first, so a
writer that sees the second answer may assume the first.

Invariant: `durable <= written`, and the waiting callbacks are ordered by write number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from walrus.storage.batch import Batch
from walrus.storage.port import Storage
from walrus.wire.effects import Then


class Durable:
    """One engine, with numbered writes and things to do once they are durable."""

    def __init__(self, storage: Storage, on_synced: Callable[[str, int], None] | None = None) -> None:
        """`on_synced`: of a recorded run, told (topic, length) of each write when it is durable."""
        self.storage = storage
        self._on_synced = on_synced
        self.written = 0
        self.durable = 0
        self._waiting: deque[tuple[int, Then]] = deque()

    def write(self, topic: str, batch: Batch, then: Then | None = None) -> int:
        """Append a batch and return its first index. `then` runs once it is durable.

        Raises StorageError, with nothing written and `then` dropped.
        """
        start = self.storage.write(topic, batch)
        assert start >= 0 and batch.count, "SeqOrder: a write of nothing, or before the beginning"
        self.written += 1
        assert not self._waiting or self._waiting[-1][0] < self.written, (
            "callbacks out of the order of writes"
        )
        if self._on_synced is not None:
            self._waiting.append((self.written, partial(self._on_synced, topic, start + batch.count)))
        if then is not None:
            self._waiting.append((self.written, then))
        return start

    # Without `then` this is a `Storage` too, for components that wait for durability in another way.

    def read_batch(self, topic: str, start: int, max_entries: int, max_bytes: int) -> Batch:
        """See `Storage.read_batch`."""
        assert start >= 0 and max_entries > 0, "a read of nothing: its empty answer would mean the end"
        return self.storage.read_batch(topic, start, max_entries, max_bytes)

    def bounds(self, topic: str) -> tuple[int, int]:
        """See `Storage.bounds`."""
        return self.storage.bounds(topic)

    def topics(self) -> list[str]:
        """See `Storage.topics`."""
        return self.storage.topics()

    def trim(self, topic: str, before: int) -> None:
        """See `Storage.trim`."""
        assert before <= self.storage.bounds(topic)[1], "AckedDurable: what is still to be written would go"
        self.storage.trim(topic, before)

    def delete_topic(self, topic: str) -> None:
        """See `Storage.delete_topic`."""
        self.storage.delete_topic(topic)

    def barrier(self, then: Then) -> None:
        """Run `then` once everything written so far is durable; now, if it already is."""
        assert self.durable <= self.written, "AckedDurable: durable before it was written"
        assert not self._waiting or self._waiting[-1][0] <= self.written, "a callback waits for a later write"
        if self.durable == self.written:
            then()
        else:
            self._waiting.append((self.written, then))

    def on_durable(self, number: int) -> None:
        """Everything up to write `number` is durable."""
        assert number <= self.written, "AckedDurable: durable before it was written"
        # Syncs may be reported late and out of order; a later one has covered what an earlier one says.
        self.durable = max(self.durable, number)
        while self._waiting and self._waiting[0][0] <= self.durable:
            self._waiting.popleft()[1]()
        self.check_invariants()

    def check_invariants(self) -> None:
        """Assert what must hold between the two counters and what waits."""
        assert 0 <= self.durable <= self.written, "AckedDurable: durable before it was written"
        if self._waiting:
            assert self._waiting[0][0] > self.durable, "RolloverProgress: a callback was forgotten"
            assert self._waiting[-1][0] <= self.written, "a callback waits for a write that never was"

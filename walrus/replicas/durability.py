"""What is written, and what of it is durable: the logic's view of one storage engine.

The logic writes at once and learns of durability later. Every write gets the next number, and a sync
that was started after write number `n` makes all writes up to `n` durable together: one counter is
all the bookkeeping that group commit needs. A component that must not reply before its write is durable hands
in what it has to say (`then`), and it is said in the order of the writes.

Invariant: `durable <= written`, and what waits is ordered by write number.
"""

from __future__ import annotations

from collections import deque

from walrus.storage.batch import Batch
from walrus.storage.port import Storage
from walrus.wire.effects import Then


class Durable:
    """One engine, with numbered writes and things to do once they are durable."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.written = 0
        self.durable = 0
        self._waiting: deque[tuple[int, Then]] = deque()

    def write(self, topic: str, batch: Batch, then: Then | None = None) -> int:
        """Append a batch and return its first index. `then` runs once it is durable.

        Raises StorageError, with nothing written and `then` dropped.
        """
        start = self.storage.write(topic, batch)
        self.written += 1
        if then is not None:
            self._waiting.append((self.written, then))
        return start

    # Without `then` this is a `Storage` too, for components that wait for durability in another way.

    def read_batch(self, topic: str, start: int, max_entries: int, max_bytes: int) -> Batch:
        """See `Storage.read_batch`."""
        return self.storage.read_batch(topic, start, max_entries, max_bytes)

    def bounds(self, topic: str) -> tuple[int, int]:
        """See `Storage.bounds`."""
        return self.storage.bounds(topic)

    def topics(self) -> list[str]:
        """See `Storage.topics`."""
        return self.storage.topics()

    def trim(self, topic: str, before: int) -> None:
        """See `Storage.trim`."""
        self.storage.trim(topic, before)

    def delete_topic(self, topic: str) -> None:
        """See `Storage.delete_topic`."""
        self.storage.delete_topic(topic)

    def barrier(self, then: Then) -> None:
        """Run `then` once everything written so far is durable; now, if it already is."""
        if self.durable == self.written:
            then()
        else:
            self._waiting.append((self.written, then))

    def on_durable(self, number: int) -> None:
        """Everything up to write `number` is durable."""
        assert number <= self.written, "durable before it was written"
        self.durable = max(self.durable, number)
        while self._waiting and self._waiting[0][0] <= self.durable:
            self._waiting.popleft()[1]()
